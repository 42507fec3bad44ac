"""A dot bounces behind a screen: a third of its frames are missing, and are filled in from those around them.

python examples/svae_filtering.py
"""

import jax
import jax.numpy as jnp
import optax

from chainrule.svae import LDS, SVAE, fit, forecast
from chainrule.svae.networks import MLP
from chainrule.svae.worlds import Dot, simulate

films = simulate(Dot(), jax.random.key(0), sequences=100, frames=40)  # of 20 pixels, with noise
hidden = jax.random.bernoulli(jax.random.key(1), 1 / 3, (100, 40))  # frames that nobody sees, in training too
seen = jnp.where(hidden[..., None], jnp.nan, films.frames)

prior = LDS.oscillating(jnp.array([25.0]), worth=100.0, noise=0.03)  # it goes round in about 25 frames
encoder, decoder = MLP(4, residual=False), MLP(20, residual=False)
svae = SVAE(prior, encoder, decoder, data=100, optimizer=optax.adam(1e-2))
state, history = fit(svae, jax.random.key(2), seen, steps=250, batch_size=32)
filled = forecast(svae, state, jax.random.key(3), seen, horizon=5)  # and five frames that are still to come

error = jnp.mean((filled.mean[:, :40] - films.clean)[hidden] ** 2)
blind = jnp.var(films.clean)  # of the mean frame of all pixels
print(f"squared error of missing frames {error:.4f}, where the mean has {blind:.3f}")
assert error < blind / 10
