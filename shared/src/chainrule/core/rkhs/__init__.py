"""chainrule.core.rkhs: functions of a reproducing kernel Hilbert space as differentiable values.

RKHSFun, inner, norm_sq, merge     f = sum_i a_i k(x_i, .), evaluated, added, scaled, multiplied
grad, value_and_grad               the gradient of a loss with respect to a function, which is a function
SquaredExponential, Matern12, ...  the kernels, with sums, products and multiples
Dictionary, DictionaryFun          functions over fixed points, for loops
BufferedFun                        functions with room for a number of atoms, for loops
compress                           fewer atoms, with a bound of the error
fit                                kernel ridge regression, differentiable in its hyperparameters
Functions                          all this as a vector space

    from chainrule.core import rkhs
    from chainrule.core.rkhs import RKHSFun, norm_sq

    def logprob(f, data):
        return -sum((f(x) - y) ** 2 for x, y in data) - norm_sq(f)

    f = RKHSFun(rkhs.SquaredExponential())
    for _ in range(30):
        f = f + 0.01 * rkhs.grad(logprob)(f, data)
"""

from chainrule.core.rkhs._pytree import register
from chainrule.core.rkhs.buffered import BufferedFun
from chainrule.core.rkhs.compress import Compressed, compress
from chainrule.core.rkhs.derivative import grad, value_and_grad
from chainrule.core.rkhs.dictionary import Dictionary, DictionaryFun
from chainrule.core.rkhs.fit import Fit, fit
from chainrule.core.rkhs.function import RKHSFun
from chainrule.core.rkhs.inner import inner, norm_sq
from chainrule.core.rkhs.kernels import (
    Constant,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scaled,
    SquaredExponential,
    Sum,
)
from chainrule.core.rkhs.merge import merge
from chainrule.core.rkhs.space import Functions

__all__ = [
    "BufferedFun",
    "Compressed",
    "Constant",
    "Dictionary",
    "DictionaryFun",
    "Fit",
    "Functions",
    "Kernel",
    "Linear",
    "Matern12",
    "Matern32",
    "Matern52",
    "Periodic",
    "Polynomial",
    "Product",
    "RKHSFun",
    "RationalQuadratic",
    "Scaled",
    "SquaredExponential",
    "Sum",
    "compress",
    "fit",
    "grad",
    "inner",
    "merge",
    "norm_sq",
    "register",
    "value_and_grad",
]
