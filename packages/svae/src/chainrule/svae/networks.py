"""Encoders and decoders: flax modules, functions, or a small network of our own, all behind one interface.

as_network(module)               a Network of whatever it is
MLP(outputs, hidden, residual)   dense layers in plain JAX

A Network has init(key, x) -> params and apply(params, x) -> outputs. What has these two methods is one
already: a module of `flax.linen`, for instance. A module of `flax.nnx` is split into its parameters and the
rest, which stays as it is. Any other callable has no parameters.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree


@runtime_checkable
class Network(Protocol):
    """A function with parameters."""

    def init(self, key: Key[Array, ""], x: Array) -> PyTree:
        """Parameters for inputs like x."""
        ...

    def apply(self, params: PyTree, x: Array) -> Any:
        """The outputs."""
        ...


def as_network(module: Any) -> Network:
    """What a module, or a function, is as a `Network`.

    Args:
        module: a module of flax.nnx or flax.linen, anything else with `init` and `apply`, or a function of x
            alone, which learns nothing.

    Raises:
        TypeError: for what is none of these.
    """
    nnx = sys.modules.get("flax.nnx")  # whoever has such a module has imported it
    if nnx is not None and isinstance(module, nnx.Module):
        return _nnx_network(nnx, module)
    if isinstance(module, Network):
        return module
    if callable(module) and not isinstance(module, type):
        return _Function(module)
    raise TypeError(
        f"as_network: {module!r} is no network: pass a module of flax, an object with init(key, x) and "
        "apply(params, x), or a function of x"
    )


@dataclasses.dataclass(frozen=True)
class MLP:
    """Dense layers with tanh between them, and beside them a straight way for the input.

    With `residual`, outputs = x P + layers(x), where P copies the first coordinates, and the last layer
    starts small: an encoder then starts as the identity on what it can hold. A mixture in the latent space
    needs that to find clusters that are there in the data.

    Raises:
        ValueError: for a layer of no width, and for biases that are not as many as outputs.
    """

    outputs: int
    hidden: tuple[int, ...] = (40, 40)
    residual: bool = True
    last_scale: float = 0.1  # of the last layer's initial weights with `residual`, relative to the others
    last_bias: tuple[float, ...] = ()  # its initial biases; zero unless given

    def __post_init__(self):
        if len(self.last_bias) not in (0, self.outputs):
            raise ValueError(f"MLP: last_bias must be {self.outputs} numbers or none, got {self.last_bias}")
        if self.outputs < 1 or any(width < 1 for width in self.hidden):
            raise ValueError(
                f"MLP: every layer must be at least 1 wide, got {self.hidden} and {self.outputs}"
            )

    def init(self, key: Key[Array, ""], x: Float[Array, "*batch inputs"]) -> PyTree:
        """Weights of variance one over the number of inputs, biases of zero but for the last."""
        sizes = (x.shape[-1], *self.hidden, self.outputs)
        keys = jax.random.split(key, len(sizes) - 1)

        def layer(key, inputs, outputs, scale):
            weights = scale / inputs**0.5 * jax.random.normal(key, (inputs, outputs), x.dtype)
            return {"weights": weights, "bias": jnp.zeros(outputs, x.dtype)}

        scales = [1.0] * len(self.hidden) + [self.last_scale if self.residual else 1.0]
        layers = [layer(*args) for args in zip(keys, sizes[:-1], sizes[1:], scales, strict=True)]
        if self.last_bias:
            layers[-1]["bias"] = jnp.asarray(self.last_bias, x.dtype)
        if not self.residual:
            return {"layers": layers}
        return {"layers": layers, "straight": jnp.eye(x.shape[-1], self.outputs, dtype=x.dtype)}

    def apply(self, params: PyTree, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The outputs."""
        hidden, *others = x, *params["layers"]
        for i, layer in enumerate(others):
            dense = hidden @ layer["weights"]
            hidden = dense + jnp.broadcast_to(layer["bias"], dense.shape)
            if i < len(others) - 1:
                hidden = jnp.tanh(hidden)
        return hidden + x @ params["straight"] if self.residual else hidden


class _Function(NamedTuple):
    function: Callable[[Array], Any]

    def init(self, key, x):
        return ()

    def apply(self, params, x):
        return self.function(x)


@dataclasses.dataclass(frozen=True)
class _NNX:
    merge: Callable[[PyTree], Callable[[Array], Any]]
    params: PyTree

    def init(self, key, x):
        return self.params

    def apply(self, params, x):
        return self.merge(params)(x)


def _nnx_network(nnx, module):
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return _NNX(lambda params: nnx.merge(graph, params, rest), params)
