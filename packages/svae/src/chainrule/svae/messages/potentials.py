"""What each frame says of its state, as an unnormalised Gaussian.

    Potentials(J, h)                 an encoder's: full precisions, or their diagonals
    observe(y, C, R)                 of linear observations with Gaussian noise; frames or entries may be
                                     missing masked(potentials, mask)         frames that say nothing
    expected_dynamics(K, L, N)       dynamics of expected natural parameters, and what they add to J

The potential of frame t is

    psi_t(x) = exp( log_scale_t + h_t'(x - c_t) - (x - c_t)' J_t (x - c_t) / 2 ) ,

with J_t positive semidefinite: the sign is that of a precision, not of a natural parameter -J/2. Without a
centre c_t it is zero. A centre near the mode keeps the log normaliser exact where J is large: without one
its terms of the size of h' J^-1 h cancel.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from chainrule.svae.messages import _dense as dense

RIDGE = 1e-3  # of the mean eigenvalue: directions that say less are centred at zero
REFINEMENTS = 3  # leave RIDGE^4 of an error in a direction of mean eigenvalue


class Potentials(NamedTuple):
    """One Gaussian potential for each frame; see the module's formula.

    J          precisions, (frames, dim, dim) symmetric positive semidefinite, or their diagonals (frames,
               dim)
    h          (frames, dim), the gradient of log psi_t at the centre
    centre     (frames, dim) in units of the state, or None for zero
    log_scale  (frames,), or None for zero
    """

    J: Float[Array, "frames dim dim"] | Float[Array, "frames dim"]
    h: Float[Array, "frames dim"]
    centre: Float[Array, "frames dim"] | None = None
    log_scale: Float[Array, " frames"] | None = None


def observe(
    y: Float[Array, "frames seen"],
    C: Float[Array, "seen dim"] | Float[Array, "frames seen dim"] | None,
    R: Float[Array, " seen"] | Float[Array, "seen seen"] | Float[Array, "frames seen seen"],
    *,
    d: Float[Array, " seen"] | Float[Array, "frames seen"] | None = None,
    mask: Bool[Array, " frames"] | Bool[Array, "frames seen"] | str | None = None,
) -> Potentials:
    """The potentials of y_t = C x_t + d + N(0, R), scaled so that their log normaliser is log p(y).

    Args:
        y: what was seen.
        C: the matrix of the observation, None for the identity; constant, or one for each frame.
        R: covariance of the noise: variances (seen,), a matrix, or a matrix for each frame.
        d: offset, zero if None.
        mask: which frames, or which entries, were seen; "nan" takes those that are not NaN. None takes all,
            and a NaN then makes everything NaN. Under jax.vmap, a mask of each sequence's own makes
            precisions of each sequence's own: leave it out where nothing is missing.

    Returns:
        Potentials with a centre and a log_scale; J is diagonal if C is None and R are variances.

    Raises:
        ValueError: if mask is another word.
    """
    if isinstance(mask, str):
        if mask != "nan":
            raise ValueError(f"observe: mask is {mask!r}: give an array of bools, or 'nan'")
        mask = ~jnp.isnan(y)
    if mask is not None:
        mask = jnp.broadcast_to(mask if mask.ndim == 2 else mask[:, None], y.shape)
        y = jnp.where(mask, y, 0)
    frames, seen = y.shape
    count = seen if mask is None else jnp.sum(mask, -1)
    constant = count * jnp.log(2 * jnp.pi).astype(y.dtype)
    y = y if d is None else y - jnp.broadcast_to(d, y.shape)
    if C is None and R.ndim == 1:
        J = jnp.broadcast_to(1 / R, y.shape)
        log_R = jnp.broadcast_to(jnp.log(R), y.shape)
        if mask is not None:
            J, log_R, y = jnp.where(mask, J, 0), jnp.where(mask, log_R, 0), jnp.where(mask, y, 0)
        return Potentials(J, jnp.zeros_like(y), y, -(constant + jnp.sum(log_R, -1)) / 2)
    if C is None and R.ndim == 2 and mask is None:
        L = dense.cholesky(dense.symmetric(R))
        root = dense.inverse_lower(L)
        J = jnp.broadcast_to(dense.product(root.T, root), (frames, seen, seen))
        scale = -(constant / 2 + dense.log_determinant(L))
        return Potentials(J, jnp.zeros_like(y), y, jnp.broadcast_to(scale, y.shape[:1]))
    C = jnp.eye(seen, dtype=y.dtype) if C is None else C
    if mask is not None:  # a missing entry is one of noise with variance 1, which saw nothing and was zero
        R = jnp.diag(R) if R.ndim == 1 else R
        both = mask[:, :, None] & mask[:, None, :]
        R = jnp.where(both, jnp.broadcast_to(R, both.shape), jnp.eye(seen, dtype=y.dtype)[None])
        C = jnp.where(mask[:, :, None], jnp.broadcast_to(C, (frames, *C.shape[-2:])), 0)
        y = jnp.where(mask, y, 0)
    if R.ndim == 1:
        whiten = lambda a: a / jnp.broadcast_to(jnp.sqrt(R)[:, None], a.shape)
        log_R = jnp.sum(jnp.log(R)) / 2
    else:
        L = dense.cholesky(dense.symmetric(R))
        inverse = dense.inverse_lower(L)
        whiten = lambda a: dense.product(jnp.broadcast_to(inverse, (*a.shape[:-2], seen, seen)), a)
        log_R = dense.log_determinant(L)
    if R.ndim == 3 and C.ndim == 2:
        C = jnp.broadcast_to(C, (frames, *C.shape))
    F, y = whiten(C), whiten(y[:, :, None])[..., 0]
    J = dense.product(dense.transposed(F), F)
    F_all = jnp.broadcast_to(F, (frames, *F.shape[-2:]))
    centre = _centre(J, F_all, y)
    left = y - dense.apply(F_all, centre)
    return Potentials(
        jnp.broadcast_to(J, (frames, *J.shape[-2:])),
        dense.apply(dense.transposed(F_all), left),
        centre,
        -(constant + jnp.sum(left**2, -1)) / 2 - log_R,
    )


def _centre(J, F, y):
    """About where |y - F x|^2 is least. Any point would do; this one makes what is left small."""
    size = jnp.trace(J, axis1=-2, axis2=-1) / J.shape[-1]
    size = jnp.where(size > 0, RIDGE * size, 1)
    ridge = size[..., None, None] * jnp.broadcast_to(jnp.eye(J.shape[-1], dtype=J.dtype), J.shape)
    K = dense.cholesky(J + ridge)
    inverse = dense.inverse_lower(K)
    solve = dense.product(dense.transposed(inverse), inverse)
    x = jnp.zeros((*y.shape[:1], J.shape[-1]), y.dtype)
    for _ in range(1 + REFINEMENTS):
        pull = dense.apply(dense.transposed(F), y - dense.apply(F, x))
        x = x + dense.apply(jnp.broadcast_to(solve, (len(y), *solve.shape[-2:])), pull)
    return x


def masked(potentials: Potentials, mask: Bool[Array, " frames"]) -> Potentials:
    """The same potentials, and none where mask is false: such a frame says nothing of its state.

    What stood there may be NaN. The precisions of frames become those of each sequence's own under
    jax.vmap, if the mask is one of each sequence's own.
    """

    def keep(x) -> Any:
        return None if x is None else jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

    return Potentials(*(keep(x) for x in potentials))


def expected_dynamics(
    precision: Float[Array, "dim dim"],
    across: Float[Array, "dim inputs"],
    before: Float[Array, "inputs inputs"],
) -> tuple[Float[Array, "dim inputs"], Float[Array, "dim dim"], Float[Array, "inputs inputs"]]:
    """Ordinary dynamics for expected natural parameters, and the precision that is left over.

    Where A and Q have a posterior of their own, the factor between two states is, in expectation,

        exp( - x_{t+1}' E[Q^-1] x_{t+1} / 2 + x_{t+1}' E[Q^-1 A] x_t - x_t' E[A' Q^-1 A] x_t / 2 ) ,

    and completing the square makes of it that of A = E[Q^-1]^-1 E[Q^-1 A], Q = E[Q^-1]^-1, and a potential:

        E[A' Q^-1 A] - A' Q^-1 A   is to be added to J_t of every frame but the last, exactly.

    Under a matrix normal inverse Wishart posterior this is dim times the column covariance of A. Where that
    is at hand, use it, for the difference here cancels if Q is small. The normaliser of the factor, E log |Q|
    in particular, is the caller's: log Z is that of N(x_{t+1}; A x_t, Q), with log |Q| of this Q.

    Args:
        precision: E[Q^-1].
        across: E[Q^-1 A].
        before: E[A' Q^-1 A].

    Inputs may be more than x_t: with actions and a one for the bias, A has their columns too.

    Returns:
        A, Q and the precision to be added.
    """
    # Symmetric, for derivatives by the whole matrix: a factor reads one half of it.
    root = dense.inverse_lower(dense.cholesky(dense.symmetric(precision)))
    whitened = dense.product(root, across)
    Q = dense.symmetric(dense.product(root.T, root))
    return dense.product(root.T, whitened), Q, before - dense.product(whitened.T, whitened)
