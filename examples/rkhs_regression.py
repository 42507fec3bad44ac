"""The talk's regression: gradient ascent on a function, without parameters.

The slides "User-defined types: reproducing kernel Hilbert space" end with the loop below. f is a
function, the gradient of logprob with respect to f is a function, and so is their sum. f begins as zero,
without atoms; each step adds to atoms that sit at the five data points and nowhere else. The maximum that it
climbs to is the posterior mean of a Gaussian process, which `rkhs.fit` finds directly.

    python examples/rkhs_regression.py [folder for the picture and the numbers behind it]
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from chainrule.core import rkhs
from chainrule.core.rkhs import RKHSFun, grad, norm_sq

X = jnp.arange(5.0)[:, None]
Y = jnp.array([1.0, 2.0, 3.0, 2.0, 1.0])
DATA = list(zip(X, Y, strict=True))
KERNEL = rkhs.SquaredExponential()
SHOWN = {0: ":", 1: "-.", 5: "--", 30: "-"}  # steps, and how they are drawn


def logprob(f, data):
    loglik = -sum((f(x) - y) ** 2 for x, y in data)
    logprior = -norm_sq(f)
    return loglik + logprior


def ascend():
    """f after each number of steps that is shown."""
    f = RKHSFun(KERNEL)
    shown = {0: f}
    for step in range(1, 31):
        f = f + 0.01 * grad(logprob)(f, DATA)
        shown |= {step: f} if step in SHOWN else {}
    return shown


def draw(file, title, x, curves, best):
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for shade, (steps, values) in zip((0.65, 0.5, 0.3, 0.0), curves.items(), strict=True):
        axes.plot(x, values, SHOWN[steps], color=str(shade), label=f"{steps} step{'s' * (steps != 1)}")
    axes.plot(x, best, color="0.75", linewidth=4, zorder=0, label="maximum, by rkhs.fit")
    axes.plot(X[:, 0], Y, "o", color="black", markerfacecolor="white", label="data")
    axes.set(xlabel="x", ylabel="f(x)", title=title)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(file, dpi=150)


def main(folder):
    functions = ascend()
    f, best = functions[30], rkhs.fit(KERNEL, X, Y, noise=1.0).function
    rise = {steps: float(logprob(g, DATA)) for steps, g in (functions | {"best": best}).items()}
    for steps, g in functions.items():
        print(f"{steps:2} steps: {len(g.points)} atoms, logprob {rise[steps]:8.4f}")
    gained = (rise[30] - rise[0]) / (rise["best"] - rise[0])
    print(f"maximum:  {len(best.points)} atoms, logprob {rise['best']:8.4f}")
    assert (f.points == X).all() and gained > 0.97

    x = jnp.linspace(-1.5, 6.5, 161)
    curves = {steps: g(x[:, None]) for steps, g in functions.items()}
    folder.mkdir(parents=True, exist_ok=True)
    title = f"30 steps in function space: {gained:.0%} of the way up in log probability"
    draw(folder / "rkhs_regression.png", title, x, curves, best(x[:, None]))
    names = ["x", *(f"f after {steps} steps" for steps in curves), "maximum"]
    table = np.stack([x, *curves.values(), best(x[:, None])], axis=1)
    np.savetxt(folder / "rkhs_regression.csv", table, "%.6g", ",", header=",".join(names), comments="")
    print(f"wrote {folder / 'rkhs_regression.png'} and .csv")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out"))
