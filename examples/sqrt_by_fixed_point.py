"""The square root of 2 as a fixed point, and three of its derivatives.

The talk's slides "User-defined primitives: fixed point iteration" turn x = f(a, x) into a function x*(a)
that can be differentiated. Here f is a step towards the square root of a, once by Newton's method, once by
gradient descent, and each derivative is beside the true one. Nothing differentiates through the iteration:
a derivative of a fixed point is a fixed point itself.

    python examples/sqrt_by_fixed_point.py
"""

import jax

from chainrule.core import Status, fixed_point


def newton(a, x):
    return (x + a / x) / 2


def descent(a, x):
    """A step of size 0.05 down the slope of x^3 / 3 - a x."""
    return x - 0.05 * (x**2 - a)


def root(step):
    return lambda a: fixed_point(step, a, 1.0, rtol=1e-12).value


def orders(f, n):
    """f and its first n derivatives, by reverse mode over reverse mode."""
    for _ in range(n + 1):
        yield jax.jit(f)
        f = jax.grad(f)


TRUTH = [
    ("sqrt(a)", lambda a: a**0.5),
    ("1st derivative", lambda a: a**-0.5 / 2),
    ("2nd derivative", lambda a: -(a**-1.5) / 4),
    ("3rd derivative", lambda a: 3 * a**-2.5 / 8),
]


def main(a=2.0):
    print(f"{f'at a = {a}':16}{'Newton':>18}{'gradient descent':>18}{'truth':>18}")
    rows = zip(TRUTH, orders(root(newton), 3), orders(root(descent), 3), strict=True)
    for (name, true), by_newton, by_descent in rows:
        print(f"{name:16}{by_newton(a):18.12f}{by_descent(a):18.12f}{true(a):18.12f}")
        assert abs(by_newton(a) - true(a)) < 1e-10 and abs(by_descent(a) - true(a)) < 1e-10

    print()
    for name, step in (("Newton", newton), ("gradient descent", descent)):
        stats = fixed_point(step, a, 1.0, rtol=1e-12).stats
        print(f"{name}: {Status(stats.status).name} after {stats.steps} steps")

    # The iteration finds no square root of -1, and says so.
    lost = fixed_point(descent, -1.0, 1.0)
    print(f"gradient descent for sqrt(-1): {Status(lost.stats.status).name}, value {lost.value}")


if __name__ == "__main__":
    with jax.enable_x64(True):  # twelve digits are to be seen; the default is float32
        main()
