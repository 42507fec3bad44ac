"""Neural graph fingerprints: Algorithm 2 of the talk, as pure functions and as flax modules.

One can
- compute fingerprints from plain arrays (`neural_fingerprint` with `Weights`),
- use a fingerprint as a layer in one's own network (`NeuralFingerprint`, a flax nnx module),
- start from random weights (`init_weights`).

Three variants, chosen by name:

`"talk"`, the pseudo-code: one degree-specific weight for an atom and its neighbours together, and one
write per layer,

    v_a = r_a + sum_i r_i ;   r_a <- relu([v_a, sum_i b_i] H_L^N + h_L) ;   f += softmax(r_a W_L + w_L)

`"original"`, what the authors' code computes: a weight S_L of its own for the atom itself, and the
atom features are written too, before the first layer (L = 0), so R + 1 writes,

    r_a <- relu(r_a S_L + [sum_i r_i, sum_i b_i] H_L^N + h_L)

`"messages"`, ours, the most accurate: layers of bond messages, see `messages`; R + 1 writes.

Above, N is the number of neighbours, i runs over them and b_i are the bonds' features. The biases h and
w and the bond features come from the code in the first two. The original also normalised by the statistics of
the batch, at test time too, so a molecule's prediction depended on its company. Here nothing does.

Source: talk, "Neural graph fingerprints"; Duvenaud, Maclaurin et al., NIPS 2015, Algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Key

from chainrule.fingerprints.batches import (
    Layer,
    MoleculeBatch,
    incident_sum,
    neighbor_sum,
    own_rows,
    surrounding_sum,
)
from chainrule.fingerprints.environments import Batch
from chainrule.fingerprints.features import ATOM_FEATURES, BOND_FEATURES, DEGREES
from chainrule.fingerprints.messages import Linear, Message, MessageWeights, message_layers

VARIANTS = ("talk", "original", "messages")
Activation = Callable[[Array], Array]
LARGE = 2**21  # numbers in a softmax, beyond which
BLOCK = 2**17  # so many are made at a time: half a megabyte


class Convolution(NamedTuple):
    """Weights of one layer."""

    self_kernel: Float[Array, "features_in features"] | None  # S_L; None in the talk's variant
    degree_kernels: Float[Array, "degrees inputs features"]  # H_L^N for N = 0, 1, ..
    bias: Float[Array, " features"]  # h_L


class Weights(NamedTuple):
    """All weights of a fingerprint: one more write than convolutions if layer 0 writes too."""

    convolutions: tuple[Convolution, ...]
    writes: tuple[Linear, ...]  # W_L and w_L


def neural_fingerprint(
    weights: Weights | MessageWeights, batch: Batch, *, activation: Activation = jax.nn.relu
) -> Float[Array, "molecules length"]:
    """The neural fingerprints of a batch of molecules, Algorithm 2.

    Its entries are non-negative and sum to (number of atoms) x (number of writes).

    Args:
        weights: of all layers, such as `init_weights` makes.
        batch: from `collate` or `collate_environments`.
        activation: what follows each linear map; the original's and ours is relu, the smooth step of the
            talk's argument that large random weights make a hash is `jax.numpy.tanh`.

    Raises:
        ValueError: there are neither as many writes as convolutions nor one more; or the batch has the
            environments of another number of layers.
    """
    layers = written_layers(weights, batch, activation=activation)
    if isinstance(batch, MoleculeBatch) and layers[0].shape[0] * weights.writes[0].bias.shape[0] > LARGE:
        return _sum_by_blocks(weights.writes, layers, batch)
    return batch.total(_softmaxes(weights.writes, layers))


def atom_writes(
    weights: Weights | MessageWeights, batch: Batch, *, activation: Activation = jax.nn.relu
) -> list[Float[Array, "_ length"]]:
    """What every atom writes to its molecule's fingerprint, one array per written layer.

    Or every environment, if the batch has these.
    The activation of the fragment of radius L around an atom is what the atom writes in layer L.
    """
    return _softmaxes(weights.writes, written_layers(weights, batch, activation=activation))


def written_layers(
    weights: Weights | MessageWeights, batch: Batch, *, activation: Activation = jax.nn.relu
) -> list[Float[Array, "_ _"]]:
    """The features of every atom in each layer that is written."""
    skipped = len(weights.convolutions) + 1 - len(weights.writes)  # layers that do not write: none, or 0
    if skipped not in (0, 1):
        raise ValueError(
            f"{len(weights.writes)} writes for {len(weights.convolutions)} convolutions; give as many, or "
            "one more to write the atom features too"
        )
    if isinstance(weights, MessageWeights):
        return message_layers(weights, batch, activation=activation)[skipped:]
    return convolutions(weights, batch, activation)[skipped:]


def _softmaxes(
    writes: Sequence[Linear], layers: Sequence[Float[Array, "_ _"]]
) -> list[Float[Array, "_ length"]]:
    return [_softmax(write, layer) for layer, write in zip(layers, writes, strict=True)]


def _softmax(write: Linear, layer: Float[Array, "atoms _"]) -> Float[Array, "atoms length"]:
    made = lambda write, layer: jax.nn.softmax(write(layer), axis=-1)
    # Of many, all that is kept for the derivative is what they were made from: the processor is faster
    # in making them again than in reading them.
    many = layer.shape[0] * write.bias.shape[0] > LARGE
    return (jax.checkpoint(made) if many else made)(write, layer)


def _sum_by_blocks(
    writes: Sequence[Linear], layers: Sequence[Float[Array, "_ _"]], batch: MoleculeBatch
) -> Float[Array, "molecules length"]:
    """What all atoms write, some of them at a time, and computed again for the derivative.

    A softmax of many atoms and entries goes through memory several times. That of a block stays in the
    processor's cache, which pays for the repetition, and no more than a block is ever kept.
    """
    length = writes[0].bias.shape[0]
    n_atoms = batch.molecule.shape[0]
    rows = max(1, BLOCK // length)
    n_blocks = -(-n_atoms // rows)
    missing = n_blocks * rows - n_atoms

    def blocks(array: Array, fill: int = 0) -> Array:
        padding = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
        padded = jnp.pad(array, padding, constant_values=fill)
        return padded.reshape(n_blocks, rows, *array.shape[1:])

    @jax.checkpoint
    def add(total: Array, block: tuple[Array, list[Array]]) -> tuple[Array, None]:
        molecule, own_layers = block
        return total.at[molecule].add(reduce(jnp.add, _softmaxes(writes, own_layers)), mode="drop"), None

    of_no_molecule = batch.n_molecules
    molecule = blocks(jnp.asarray(batch.molecule), of_no_molecule)
    dtype = jnp.result_type(*layers, *jax.tree.leaves(writes))  # the first layer's is the batch's
    start = jnp.zeros((batch.n_molecules, length), dtype)
    return jax.lax.scan(add, start, (molecule, [blocks(layer) for layer in layers]))[0]


def convolutions(
    weights: Weights, batch: Batch, activation: Activation = jax.nn.relu
) -> list[Float[Array, "_ _"]]:
    """The features of every atom, before the first layer and after each."""
    dtype = weights.writes[0].bias.dtype if weights.writes else jnp.float32
    layers = [jnp.asarray(batch.atoms, dtype)]
    bonds = jnp.asarray(batch.bonds, dtype)
    surroundings = batch.layers(len(weights.convolutions))
    for convolution, layer in zip(weights.convolutions, surroundings, strict=True):
        layers.append(convolve(convolution, layer, layers[-1], bonds, activation))
    return layers


def convolve(
    convolution: Convolution,
    layer: Layer,
    atoms: Float[Array, "before features_in"],
    bonds: Float[Array, "bonds bond_features"],
    activation: Activation = jax.nn.relu,
) -> Float[Array, "atoms features"]:
    """Lines 7 to 9 of Algorithm 2: every atom takes in its neighbours."""
    self_kernel, degree_kernels, bias = convolution
    around = (surrounding_sum if self_kernel is None else neighbor_sum)(layer, atoms)
    # Split by degree, as rows are sorted, not sliced, of which the derivative would be a sum of arrays that
    # are mostly zero; and joined with the bonds when split, which spares a derivative of the whole.
    per_degree = zip(
        jnp.split(around, layer.ends),
        jnp.split(incident_sum(layer, bonds), layer.ends),
        jnp.split(degree_kernels, DEGREES),
        strict=True,
    )
    products = [jnp.concatenate([sums, bonds], axis=1) @ kernel[0] for sums, bonds, kernel in per_degree]
    summed = jnp.concatenate(products) + bias[None]
    if self_kernel is not None:
        summed = summed + own_rows(layer, atoms) @ self_kernel
    return activation(summed)


def init_weights(
    key: Key[Array, ""],
    *,
    depth: int = 4,
    width: int = 20,
    length: int = 64,
    variant: str = "talk",
    atom_features: int = len(ATOM_FEATURES),
    bond_features: int = len(BOND_FEATURES),
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Weights | MessageWeights:
    """Random weights: normal with standard deviation `scale` / sqrt(inputs), biases zero.

    Args:
        key: typed random key.
        depth: number of layers, the radius R in bonds; 0 leaves only the atoms themselves, which the
            talk's variant does not write.
        width: features of an atom in the hidden layers.
        length: entries of the fingerprint.
        variant: "talk", "original" or "messages", see the module's docstring.
        scale: 1 keeps activations of order one; large makes every softmax a hard choice, which is
            what circular fingerprints are.

    Raises:
        ValueError: unknown variant, or a size below its smallest value.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} is unknown; choose one of {VARIANTS}")
    smallest_depth = 1 if variant == "talk" else 0
    for name, value, least in (
        ("depth", depth, smallest_depth),
        ("width", width, 1),
        ("length", length, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value} is too small for variant {variant!r}; least {least}")

    def draw(shapes):
        leaves, structure = jax.tree.flatten(shapes, is_leaf=_is_shape)
        return jax.tree.unflatten(structure, _normal(key, scale, tuple(leaves), dtype))

    sizes = depth, width, length, atom_features, bond_features
    if variant == "messages":
        embedding, messages, writes = draw(_message_shapes(*sizes))
        layers = (Message(Linear(*atom), bond, Linear(*update)) for atom, bond, update in messages)
        return MessageWeights(Linear(*embedding), tuple(layers), tuple(Linear(*write) for write in writes))
    own = variant == "original"
    convolutions, writes = draw(_shapes(*sizes, own=own))
    return Weights(tuple(Convolution(*c) for c in convolutions), tuple(Linear(*write) for write in writes))


def _shapes(depth, width, length, atom_features, bond_features, *, own: bool):
    """Of the arrays in each `Convolution` and in each write; `own` is the original's variant."""
    convolutions, writes = [], []
    for layer in range(depth + 1):
        features = width if layer else atom_features
        if layer or own:
            writes.append([(features, length), (length,)])
        if layer < depth:
            per_degree = (DEGREES, features + bond_features, width)
            convolutions.append([(features, width) if own else None, per_degree, (width,)])
    return convolutions, writes


def _message_shapes(depth, width, length, atom_features, bond_features):
    """Of the arrays in the embedding, in each `Message` and in each write."""
    linear = lambda inputs, outputs: [(inputs, outputs), (outputs,)]
    message = [linear(width, width), (bond_features, width), linear(2 * width, width)]
    return linear(atom_features, width), [message] * depth, [linear(width, length)] * (depth + 1)


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and isinstance(node[0], int)


@partial(jax.jit, static_argnames=("shapes", "dtype"))
def _normal(
    key: Key[Array, ""], scale: ArrayLike, shapes: tuple[tuple[int, ...], ...], dtype: DTypeLike
) -> list[Array]:
    """Arrays of these shapes from one draw (one to compile): normal kernels, zero vectors."""
    sizes = [math.prod(shape) if len(shape) > 1 else 0 for shape in shapes]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),), dtype), list(accumulate(sizes)))
    return [
        jnp.asarray(scale * part.reshape(shape) / math.sqrt(shape[-2]), dtype)
        if len(shape) > 1
        else jnp.zeros(shape, dtype)
        for shape, part in zip(shapes, parts[:-1], strict=True)
    ]


class NeuralFingerprint(nnx.Module):
    """A neural fingerprint as a layer: molecules in, fingerprints out, trained with what follows it.

    Example:
        >>> from chainrule.fingerprints import collate, featurize
        >>> table = featurize(["CCO", "c1ccccc1"])
        >>> layer = NeuralFingerprint(depth=2, length=16, rngs=nnx.Rngs(0))
        >>> layer(collate(table, [0, 1])).shape
        (2, 16)
    """

    def __init__(
        self,
        *,
        depth: int = 4,
        width: int = 20,
        length: int = 64,
        variant: str = "talk",
        scale: float = 1.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """See `init_weights` for the arguments; `rngs` gives the key of the weights (`params`)."""
        weights = init_weights(
            rngs.params(),
            depth=depth,
            width=width,
            length=length,
            variant=variant,
            scale=scale,
            dtype=dtype,
        )
        self.length = length
        self.params = nnx.data(jax.tree.map(nnx.Param, weights))

    @property
    def weights(self) -> Weights | MessageWeights:
        """The weights as plain arrays, for the pure functions of this module."""
        return jax.tree.map(lambda param: param[...], self.params, is_leaf=lambda p: isinstance(p, nnx.Param))

    def __call__(self, batch: Batch) -> Float[Array, "molecules length"]:
        return neural_fingerprint(self.weights, batch)
