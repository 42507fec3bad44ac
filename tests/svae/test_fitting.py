"""Training as a whole: killed and gone on, of sequences of different lengths, with stable dynamics."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chainrule.core import OneStep
from chainrule.svae import GMM, LDS, SVAE, fit
from chainrule.svae.lds import spectral_radius
from chainrule.svae.messages import Potentials
from chainrule.svae.networks import MLP

KEY = jax.random.key(0)
Y = jax.random.normal(KEY, (30, 2))
one_step = {"adjoint": OneStep()}  # compiles sooner
SVAE_OF_POINTS = SVAE(
    GMM.prior(2, 2), MLP(4, (3,)), MLP(2, (3,)), data=30, optimizer=optax.adam(1e-2), inference=one_step
)


class Killed(Exception):
    pass


def train(svae=SVAE_OF_POINTS, data=Y, key=KEY, **settings):
    return fit(svae, key, data, **{"steps": 60, "batch_size": 10, "save_every": 50, **settings})


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of a run that saw its fiftieth step and no more."""
    folder = tmp_path_factory.mktemp("runs") / "killed"

    def kill(state, metrics):
        raise Killed

    with pytest.raises(Killed):
        train(checkpoint=folder, callback=kill)
    return folder


def test_a_run_that_was_killed_comes_out_as_if_it_had_not_been(killed):
    whole, history = train()
    seen = []
    again, its_history = train(checkpoint=killed, callback=lambda state, _: seen.append(int(state.steps)))
    assert seen == [60]  # the first fifty were not taken again
    data_of = lambda state: state._replace(key=jax.random.key_data(state.key))
    jax.tree.map(np.testing.assert_array_equal, data_of(again), data_of(whole))
    jax.tree.map(np.testing.assert_array_equal, its_history, history)
    finished, _ = train(checkpoint=killed, callback=kill_nothing)
    jax.tree.map(np.testing.assert_array_equal, finished.model, whole.model)


def kill_nothing(state, metrics):
    raise AssertionError("there was nothing left to do")


def test_another_run_is_not_gone_on_with(killed):
    with pytest.raises(ValueError, match="batch_size 10, and this one has 5: give another checkpoint"):
        train(checkpoint=killed, batch_size=5)
    with pytest.raises(ValueError, match="holds a run with data"):
        train(checkpoint=killed, data=Y + 1)
    with pytest.raises(ValueError, match="holds a run with key and first state"):
        train(checkpoint=killed, key=jax.random.key(9))
    with pytest.raises(ValueError, match=r"shapes \('float64\[3\]', .* this one has \('float64\[4\]'"):
        train(SVAE(GMM.prior(2, 2), MLP(4, (4,)), MLP(2, (3,)), data=30), checkpoint=killed)
    with pytest.raises(ValueError, match="checkpoint and state both say where"):
        train(checkpoint=killed, state=SVAE_OF_POINTS.init(KEY, Y))


def test_without_orbax_one_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs orbax: pip install chainrule-svae\[checkpoints\]"):
        train(checkpoint=tmp_path / "run")


def test_sequences_end_and_dynamics_stay_within_their_radius():
    """What stands behind the end of a sequence is not seen, and A shrinks to the radius that is allowed."""
    films = jnp.cumsum(jnp.ones((6, 5, 1)), 1) ** 2  # they explode
    lengths, actions = jnp.array([5, 4, 3, 5, 2, 5]), jnp.ones((6, 4, 1))
    other = jnp.where(jnp.arange(5)[None, :, None] < lengths[:, None, None], films, 99.0)
    prior = LDS.prior(1, actions=1, dynamics=jnp.full((1, 1), 1.2))
    sure = lambda y: Potentials(jnp.full_like(y, 100.0), 100.0 * y)
    svae = SVAE(prior, sure, lambda x: x, data=6, radius=0.97, rho=0.5)
    runs = [
        fit(svae, KEY, y, steps=3, batch_size=4, lengths=lengths, actions=actions) for y in (films, other)
    ]
    jax.tree.map(np.testing.assert_array_equal, runs[0][0].model, runs[1][0].model)
    np.testing.assert_allclose(runs[0][1].radius, [[0.97]], rtol=1e-6)
    assert runs[0][0].model.kl(prior) > 0.1
    with pytest.raises(ValueError, match=r"radius is 0\.9 for GMM: it must be above 0, and the model"):
        SVAE(GMM.prior(2, 2), sure, lambda x: x, data=6, radius=0.9)


def test_the_spectral_radius_is_that_of_eigenvalues():
    A = np.array(jax.random.normal(KEY, (20, 4, 4)))
    A[0] = 0.9 * np.eye(4) + np.diag([5.0, 5.0, 5.0], 1)  # defective
    A[1] = np.diag([1.0, 2.0, 3.0], 1)  # nilpotent
    expected = np.abs(np.linalg.eigvals(A)).max(-1)
    expected[:2] = 0.9, 0.0  # which rounding would have split
    np.testing.assert_allclose(spectral_radius(jnp.asarray(A)), expected, rtol=1e-9, atol=1e-3)
    single = spectral_radius(jnp.asarray(A, jnp.float32))
    np.testing.assert_allclose(single[2:], expected[2:], rtol=1e-5)


def test_a_smaller_system_is_the_same_but_for_its_dynamics():
    systems = LDS.prior(2, dynamics=jnp.stack([jnp.diag(jnp.array([1.1, 0.5])), 0.3 * jnp.eye(2)]), noise=0.2)
    bounded = systems.bounded(0.9)
    A, _, _ = bounded.coefficients()
    np.testing.assert_allclose(A[0], jnp.diag(jnp.array([1.1, 0.5])) * 0.9 / 1.1, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), bounded, systems)
    for a, b in zip(bounded.steps.standard()[1:], systems.steps.standard()[1:], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
