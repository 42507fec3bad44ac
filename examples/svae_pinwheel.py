"""Five bent arms that no Gaussian fits, found as five Gaussians in a space that is learned along with them.

A structured variational autoencoder with a mixture of up to 15 Gaussians inside. It learns without any label
how many clusters there are, and unbends them.

    python examples/svae_pinwheel.py [folder for the picture and the numbers behind it]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from chainrule.svae import worlds
from chainrule.svae.experiments.pinwheel import BATCH, CLUSTERS, SIZE, model_of, start_of
from chainrule.svae.scores import adjusted_rand

STEPS = 1000


def learn(key):
    """The wheel, scaled; the autoencoder; its state after training; the bound at each step."""
    data_key, start_key, train_key, state_key = jax.random.split(key, 4)
    wheel = worlds.pinwheel(data_key)
    y = SIZE * wheel.points
    svae = model_of(len(y))

    def step(state, key):
        state, metrics = svae.step(state, jax.random.choice(key, y, (BATCH,), replace=False))
        return state, metrics.elbo

    start = svae.init(state_key, y[:BATCH], start_of(start_key, svae))
    state, elbo = jax.lax.scan(step, start, jax.random.split(train_key, STEPS))
    return y, wheel.arms, state, elbo, svae.infer(state, y)


def draw(file, title, y, posterior, labels, components):
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    for axis, points, name in zip(axes, (y, posterior.mean), ("data", "latents"), strict=True):
        axis.scatter(*points.T, c=labels, cmap="tab10", s=5)
        axis.set(xlabel=f"{name}, first", ylabel=f"{name}, second", aspect="equal")
    angle = jnp.linspace(0, 2 * jnp.pi, 100)
    for m, S, nu in components:  # two standard deviations of each cluster
        ring = m[:, None] + 2 * jnp.linalg.cholesky(S / nu) @ jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        axes[1].plot(*ring, color="black", linewidth=1)
    figure.suptitle(title)
    figure.savefig(file, dpi=150)


def main(folder):
    y, arms, state, elbo, posterior = jax.jit(learn)(jax.random.key(0))
    labels = jnp.argmax(posterior.labels, axis=1)
    used, score = jnp.unique(labels), adjusted_rand(labels, arms, CLUSTERS)
    print(f"bound {elbo[:10].mean():.2f} -> {elbo[-100:].mean():.2f} nats per point")
    print(f"{len(used)} clusters in use, adjusted Rand index {score:.3f}")
    assert len(used) == 5 and score >= 0.9

    folder.mkdir(parents=True, exist_ok=True)
    m, _, S, nu = state.model.components.standard()
    title = f"{len(used)} of {CLUSTERS} clusters in use, adjusted Rand index {score:.2f}"
    components = [(m[k], S[k], nu[k]) for k in used]
    draw(folder / "svae_pinwheel.png", title, y, posterior, jnp.searchsorted(used, labels), components)
    table = np.column_stack([y, posterior.mean, labels, arms])
    np.savetxt(
        folder / "svae_pinwheel.csv", table, "%.6g", ",", header="y1,y2,x1,x2,cluster,arm", comments=""
    )
    print(f"wrote {folder / 'svae_pinwheel.png'} and .csv")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
