"""A neural fingerprint as a layer of one's own flax network, trained by one's own loop.

The toy property counts carbon atoms less twice the oxygens: a sum over atoms, which a fingerprint can
write down. Talk: "Neural graph fingerprints".
"""

import numpy as np
import optax
from flax import nnx

from chainrule.fingerprints import NeuralFingerprint, collate, featurize

SMILES = ["C", "CC", "CCO", "OCCO", "c1ccccc1", "CC(=O)O", "CCCCCC", "OCC(O)CO", "Cc1ccccc1O", "CCOCC"]


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.fingerprint = NeuralFingerprint(depth=2, width=16, length=32, rngs=rngs)
        self.output = nnx.Linear(32, 1, rngs=rngs)

    def __call__(self, molecules):
        return self.output(self.fingerprint(molecules))[:, 0]


@nnx.jit
def step(network, optimizer, batch, targets):
    loss, gradient = nnx.value_and_grad(lambda network: ((network(batch) - targets) ** 2).mean())(network)
    optimizer.update(network, gradient)
    return loss


def main() -> None:
    molecules = featurize(SMILES)
    batch = collate(molecules, np.arange(len(molecules)))  # the molecules side by side: a pytree of arrays
    targets = np.array([smiles.upper().count("C") - 2.0 * smiles.count("O") for smiles in SMILES], np.float32)
    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.adam(1e-2), wrt=nnx.Param)
    for number in range(401):
        loss = step(network, optimizer, batch, targets)
        if number % 100 == 0:
            print(f"step {number:3}  mean squared error {float(loss):8.4f}")
    for smiles, target, value in zip(SMILES, targets, network(batch), strict=True):
        print(f"{smiles:12} {target:5.0f} {float(value):7.2f}")
    assert float(loss) < 0.1


if __name__ == "__main__":
    main()
