"""When to stop training, without held-out data: where the evidence lower bound of the training run peaks.

Eight networks are drawn from the prior and trained on twenty noisy points, by gradient descent. Each step
raises the likelihood and shrinks the volume around the weights; both are kept account of, and their sum is
a bound of the evidence. The error on points that training never saw is drawn beside it, for comparison: the
bound stops early, because it counts weights that hardly matter as lost.

    python examples/early_stopping.py [folder for the picture and the numbers behind it]
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from chainrule.inference.entropic import Gaussian, choose_stopping, run_ensemble

NOISE, WIDTH, MEMBERS, STEPS = 0.4, 30, 8, 200
PRIOR = Gaussian([(jnp.zeros((1, WIDTH)), jnp.zeros(WIDTH)), (jnp.zeros((WIDTH, 1)), jnp.zeros(1))], 0.5)


def predict(weights, inputs):
    for W, b in weights:
        z = jnp.dot(inputs, W) + b
        inputs = jnp.tanh(z)
    return z[:, 0]


def log_likelihood(weights, data):
    return jnp.sum(jax.scipy.stats.norm.logpdf(data[1], predict(weights, data[0]), NOISE))


def points(key, count):
    x_key, noise_key = jax.random.split(key)
    x = jax.random.uniform(x_key, (count, 1), minval=-3, maxval=3)
    return x, jnp.sin(1.5 * x[:, 0]) + NOISE * jax.random.normal(noise_key, (count,))


@jax.jit
def train(key, data, unseen):
    settings = dict(data=data, step_size=1e-4, steps=STEPS, record_every=4)
    monitor = lambda weights: predict(weights, unseen[0])
    return run_ensemble(key, MEMBERS, log_likelihood, PRIOR, monitor=monitor, **settings)


def main(folder):
    data_key, unseen_key, train_key = jax.random.split(jax.random.key(1), 3)
    data, unseen = points(data_key, 20), points(unseen_key, 500)
    _, trace = train(train_key, data, unseen)
    stopping = choose_stopping(trace)
    error = lambda predicted: np.sqrt(np.mean((predicted - unseen[1]) ** 2, axis=-1))
    single, together = error(trace.monitored).mean(0), error(trace.monitored.mean(0))
    elbo, step = np.mean(trace.elbo, 0), np.asarray(trace.step[0])
    print("step   bound   error of one   of the mean")
    for i in [0, *range(10, len(step), 20), stopping.record]:
        print(f"{step[i]:4} {elbo[i]:7.1f} {single[i]:14.3f} {together[i]:13.3f}")
    cost = single[stopping.record] / single.min() - 1
    print(f"the bound peaks at step {stopping.step}, where the error is {cost:.0%} above the lowest")
    assert stopping.trusted_to == STEPS and together[stopping.record] < single[stopping.record]

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(6.4, 5.0), layout="constrained")
    above.plot(step, elbo, color="black")
    above.set(ylabel="evidence lower bound (nats)", title=f"The bound says: stop at step {stopping.step}")
    below.plot(step, single, "--", color="0.5", label="one network")
    below.plot(step, together, color="black", label=f"mean of {MEMBERS}")
    below.set(xlabel="steps of gradient descent", ylabel="error on unseen points")
    above.axvline(stopping.step, color="0.7", zorder=0)
    below.axvline(stopping.step, color="0.7", zorder=0)
    below.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "early_stopping.png", dpi=150)
    table = [*zip(step, elbo, single, together, strict=True)]
    np.savetxt(folder / "early_stopping.csv", table, "%.6g", ",", header="step,elbo,one,mean", comments="")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
