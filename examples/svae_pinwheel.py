"""Five bent arms that no Gaussian fits, found as five Gaussians in a space that is learned along with them.

A structured variational autoencoder with a mixture of up to 15 Gaussians inside. It learns without any label
how many clusters there are, and unbends them. Writes svae_pinwheel.png.

    python examples/svae_pinwheel.py [folder for the picture]
"""

import jax
import jax.numpy as jnp
import matplotlib
import optax

from chainrule.svae import GMM, SVAE, worlds
from chainrule.svae.networks import MLP
from chainrule.svae.scores import adjusted_rand

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CLUSTERS, STEPS, BATCH = 15, 1000, 100

data_key, start_key, train_key, state_key = jax.random.split(jax.random.key(0), 4)
wheel = worlds.pinwheel(data_key)
y = 2 * wheel.points

# Of the encoder's outputs two say where x is, at first where y is, and two how surely: softplus(3).
prior = GMM.prior(CLUSTERS, latents=2, scale=0.4)
svae = SVAE(
    prior,
    encoder=MLP(4, last_bias=(0.0, 0.0, 3.0, 3.0)),
    decoder=MLP(2),
    data=len(y),
    optimizer=optax.adam(3e-3),
    rho=0.3,
    inference={"rtol": 1e-4, "max_steps": 100},
)


@jax.jit
def train(state, keys):
    def step(state, key):
        batch = jax.random.choice(key, y, (BATCH,), replace=False)
        return svae.step(state, batch)

    return jax.lax.scan(step, state, keys)


start = prior.scattered(start_key, spread=1.0, scale=0.3)
state, metrics = train(svae.init(state_key, y[:BATCH], start), jax.random.split(train_key, STEPS))
posterior = jax.jit(svae.infer)(state, y)
labels = jnp.argmax(posterior.labels, axis=1)
used = jnp.unique(labels)
score = adjusted_rand(labels, wheel.arms, CLUSTERS)
print(f"bound {metrics.elbo[:10].mean():.2f} -> {metrics.elbo[-100:].mean():.2f} nats per point")
print(f"{len(used)} clusters in use, adjusted Rand index {score:.3f}")
assert len(used) == 5 and score >= 0.9

figure, axes = plt.subplots(1, 2, figsize=(8, 4))
colours = jnp.searchsorted(used, labels)
for axis, points, title in zip(axes, (y, posterior.mean), ("what is seen", "what was learned"), strict=True):
    axis.scatter(*points.T, c=colours, cmap="tab10", s=5)
    axis.set(title=title, aspect="equal")
mixture = state.model.components.standard()
angle = jnp.linspace(0, 2 * jnp.pi, 100)
for k in used:  # two standard deviations of each cluster
    spread = jnp.linalg.cholesky(mixture.S[k] / mixture.nu[k])
    ring = mixture.m[k][:, None] + 2 * spread @ jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    axes[1].plot(*ring, color="black", linewidth=1)
figure.savefig("svae_pinwheel.png", dpi=150)
