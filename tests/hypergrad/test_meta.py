"""The meta-loop follows the derivative, goes on after a kill to the same bits, and trusts nothing broken."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chainrule.hypergrad import MetaStepFailed, as_schedule, fit, to_sgd, train
from chainrule.hypergrad import run_file as run_file_module
from chainrule.hypergrad.run_file import RunFile, digests

KEY = jax.random.key(7)
TARGETS = jnp.asarray([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [-2.0, 1.0]])


def loss(w, penalty, batch, key):
    return jnp.mean((w[None] - batch) ** 2) + jnp.exp(penalty) * jnp.sum(w**2)


def objective(w):
    return jnp.sum((w - 1.0) ** 2)


def training(meta, key):
    """Everything is learned: the starting point is drawn anew each time, and scaled."""
    return dict(
        params=jnp.exp(meta["log_scale"]) * jax.random.normal(key, (2,)),
        hyper=meta["penalty"],
        learning_rate=jnp.exp(meta["log_rate"]),
        momentum=jax.nn.sigmoid(meta["logit"]),
        data=meta["data"],
    )


def first(steps=6):
    return {
        "log_scale": -1.0,
        "penalty": -3.0,
        "log_rate": jnp.full(steps, -1.0),
        "logit": 0.5,
        "data": TARGETS,
    }


def run(meta_steps, optimizer=None, **changes):
    settings = dict(training=training, key=KEY, steps=6, batch_size=3, min_momentum=0.3) | changes
    return fit(objective, loss, first(), optimizer or optax.adam(0.1), meta_steps=meta_steps, **settings)


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, (found.meta, found.optimizer_state), tuple(expected)[:2])


def test_a_meta_step_is_the_optimizer_on_the_derivative_by_reverse_mode():
    training_key, train_key = jax.random.split(jax.random.fold_in(KEY, 0))

    def value(meta):
        settings = dict(batch_size=3, key=train_key, steps=6, method="naive")
        return objective(train(loss, **training(meta, training_key), **settings).params)

    gradient = jax.jit(jax.grad(value))(first())
    expected = jax.tree.map(lambda x, g: x - 0.25 * g, first(), gradient)
    for method, near in [("reversible", 2e-4), ("checkpoint", 1e-12)]:  # momenta are rounded to 2^-16
        moved = run(1, optax.sgd(0.25), method=method).meta
        apart = jax.tree.map(lambda x, y: jnp.max(abs(x - y)), moved, expected)
        assert max(jax.tree.leaves(apart)) <= near


def test_all_that_goes_into_training_is_learned():
    told = []
    fitted = run(30, callback=lambda found, meta: told.append((found, meta)))
    assert fitted.history[-1].objective < 0.2 * fitted.history[0].objective
    assert [found for found, _ in told] == fitted.history and [h.step for h in fitted.history] == [*range(30)]
    jax.tree.map(np.testing.assert_array_equal, told[-1][1], fitted.meta)
    moved = jax.tree.map(lambda x, y: np.any(np.asarray(x) != y), fitted.meta, first())
    assert all(jax.tree.leaves(moved))
    assert all(h.taken and h.mismatches == 0 and h.bits_per_step > 0 for h in fitted.history)


class Killed(BaseException):
    pass


def kill_after(step):
    def callback(found, meta):
        if found.step == step:
            raise Killed

    return callback


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.adam(0.1))
    whole = run(5, noisy)
    with pytest.raises(Killed):
        run(5, noisy, folder=tmp_path / "run", callback=kill_after(2))
    steps = []
    resumed = run(5, noisy, folder=tmp_path / "run", callback=lambda found, _: steps.append(found.step))
    assert steps == [3, 4] and resumed.history == whole.history
    plain = lambda tree: [run_file_module._plain(leaf) for leaf in jax.tree.leaves(tree)]
    for fitted in (resumed, run(5, noisy, folder=tmp_path / "run")):  # the second has nothing left to do
        jax.tree.map(
            np.testing.assert_array_equal,
            plain((fitted.meta, fitted.optimizer_state)),
            plain((whole.meta, whole.optimizer_state)),
        )


STATE = {
    "w": jnp.asarray([1.5, jnp.nan]),
    "half": jnp.asarray([1.5, 2.0], jnp.bfloat16),
    "count": jnp.int32(3),
    "key": jax.random.key(5),
}


def test_a_state_comes_back_bit_for_bit(tmp_path):
    file = RunFile(tmp_path / "new", {"steps": 3})
    assert file.read(STATE) is None
    file.write(STATE, {"objective": np.array([1.0, 2.0])})
    state, columns = file.read(STATE)
    assert digests(x=state) == digests(x=STATE)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, STATE)
    np.testing.assert_array_equal(columns["objective"], [1.0, 2.0])


def test_a_kill_while_writing_leaves_the_state_before(tmp_path, monkeypatch):
    file = RunFile(tmp_path, {"steps": 3})
    file.write(STATE, {})

    def killed(handle):
        raise Killed

    monkeypatch.setattr(run_file_module.os, "fsync", killed)
    with pytest.raises(Killed):
        file.write({**STATE, "count": jnp.int32(4)}, {})
    state, _ = file.read(STATE)
    assert digests(x=state) == digests(x=STATE)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_meta_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(1, folder=tmp_path / "file" / "run", min_momentum=None)  # a meta-step would refuse this


def test_settings_may_be_numbers_of_numpy(tmp_path):
    file = RunFile(tmp_path, {"batch_size": np.int64(2), "min_momentum": np.float32(0.5)})
    file.write(STATE, {})
    assert RunFile(tmp_path, {"batch_size": 2, "min_momentum": 0.5}).read(STATE) is not None


def test_the_folder_of_another_run_is_refused(tmp_path):
    run(1, folder=tmp_path / "run")
    others = {
        "steps": dict(steps=5, training=lambda meta, key: training(first(5), key)),
        "key": dict(key=jax.random.key(8)),
        "data": dict(training=lambda meta, key: {**training(meta, key), "data": TARGETS + 1}),
        "state": dict(optimizer=optax.sgd(0.1)),
    }
    for name, change in others.items():
        with pytest.raises(ValueError, match=f"another run, with {name} .*give another folder"):
            run(1, folder=tmp_path / "run", **change)
    with pytest.raises(ValueError, match="holds 1 meta-steps, more than meta_steps = 0"):
        run(0, folder=tmp_path / "run")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        run(1, folder=tmp_path / "thesis")


def breaking(step):
    """At that meta-step the learning rate is beyond all range."""
    broken = jax.random.key_data(jax.random.split(jax.random.fold_in(KEY, step))[0])

    def made(meta, key):
        given = training(meta, key)
        at_step = jnp.all(jax.random.key_data(key) == broken)
        return {**given, "learning_rate": jnp.where(at_step, 1e6, given["learning_rate"])}

    return made


def test_a_failed_certificate_raises_and_names_the_step(tmp_path):
    with pytest.raises(MetaStepFailed, match=r"at meta-step 2.*overflow True.*on_failure='skip'") as raised:
        run(4, training=breaking(2), folder=tmp_path)
    assert raised.value.found.step == 2
    states = []
    run(2, training=breaking(2), folder=tmp_path, callback=lambda *told: states.append(told))
    assert not states  # the two steps before it were kept


def test_a_failed_certificate_is_skipped_on_request():
    metas = []
    fitted = run(4, training=breaking(2), on_failure="skip", callback=lambda _, meta: metas.append(meta))
    assert [found.taken for found in fitted.history] == [True, True, False, True]
    jax.tree.map(np.testing.assert_array_equal, metas[2], metas[1])
    assert np.any(metas[3]["data"] != metas[2]["data"]) and int(fitted.optimizer_state[0].count) == 3


def test_an_inner_optimizer_and_an_objective_of_the_meta_step_can_be_given():
    def made(meta, key):
        target = 1 + 0.01 * jax.random.normal(key, (2,))
        return dict(
            params=jnp.zeros(2),
            hyper=-3.0,
            data=target[None],
            optimizer=optax.adam(jnp.exp(meta)),
            objective=lambda w: jnp.mean((w - target) ** 2),
        )

    never = lambda w: jnp.nan * jnp.sum(w)
    settings = dict(training=made, key=KEY, meta_steps=8, steps=5, method="checkpoint")
    fitted = fit(never, loss, -3.0, optax.adam(0.3), **settings)
    assert fitted.history[-1].objective < fitted.history[0].objective and fitted.meta > -3.0


def with_data(meta, key, data):
    return {**training({"data": None, **meta}, key), "data": data["train"]}


def distance(w, data):
    return jnp.mean((w[None] - data["valid"]) ** 2)


def test_data_of_the_call_count_as_closed_over_ones_do(tmp_path):
    meta = {name: value for name, value in first().items() if name != "data"}
    given = {"train": TARGETS, "valid": TARGETS[:2] + 0.5}
    settings = dict(key=KEY, meta_steps=3, steps=6, batch_size=3, min_momentum=0.3)
    adam = optax.adam(0.1)
    found = fit(distance, loss, meta, adam, training=with_data, data=given, folder=tmp_path, **settings)
    closing = dict(training=lambda meta, key: with_data(meta, key, given), **settings)
    expected = fit(lambda w: distance(w, given), loss, meta, adam, **closing)
    as_close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9)  # constants may be folded
    jax.tree.map(as_close, found.meta, expected.meta)
    other = {**given, "valid": TARGETS[:2]}
    with pytest.raises(ValueError, match=r"another run, with data of the call .*give another folder"):
        fit(distance, loss, meta, adam, training=with_data, data=other, folder=tmp_path, **settings)


def test_a_further_call_with_other_data_compiles_nothing(caplog):
    meta = {name: value for name, value in first().items() if name != "data"}
    adam = optax.adam(0.1)

    def compilations(shift, **changes):
        caplog.clear()
        given = {"train": TARGETS + shift, "valid": TARGETS}
        settings = dict(meta_steps=2, steps=6, batch_size=3, min_momentum=0.3) | changes
        with jax.log_compiles():
            fit(distance, loss, meta, adam, training=with_data, data=given, key=KEY, **settings)
        told = [record.getMessage() for record in caplog.records]
        return sum(message.startswith("Compiling") and "step" in message for message in told), len(told)

    assert compilations(0.0)[0] == 1
    assert compilations(1.0) == (0, 0)
    assert compilations(0.0, batch_size=2)[0] == 1


class Unhashable:
    __hash__ = None

    def __call__(self, meta, key, data):
        return with_data(meta, key, data)


def test_functions_that_cannot_be_told_apart_are_compiled_anew():
    meta = {name: value for name, value in first().items() if name != "data"}
    given = {"train": TARGETS, "valid": TARGETS}
    settings = dict(key=KEY, meta_steps=1, steps=6, min_momentum=0.3)
    fitted = fit(distance, loss, meta, optax.adam(0.1), training=Unhashable(), data=given, **settings)
    assert fitted.history[0].taken


def test_what_training_must_return_is_said():
    with pytest.raises(ValueError, match=r"dict with 'params'.*'rate'"):
        run(1, training=lambda meta, key: dict(params=jnp.zeros(2), rate=0.1))
    with pytest.raises(ValueError, match="min_momentum"):
        run(1, min_momentum=None)


def test_a_learned_schedule_in_optax_reproduces_the_training():
    rate, momentum = np.linspace(0.3, 0.05, 9), np.linspace(0.5, 0.9, 9)
    trained = train(loss, TARGETS[0], -3.0, rate, momentum, data=TARGETS, steps=9, method="naive")
    learning_rates, momenta = map(as_schedule, to_sgd(rate, momentum))
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rates, momenta)
    w = TARGETS[0]
    state = optimizer.init(w)
    for _ in range(9):
        updates, state = optimizer.update(jax.grad(loss)(w, -3.0, TARGETS, None), state)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, trained.params, rtol=1e-13)
    schedule = as_schedule(rate)
    assert [schedule(step) for step in range(12)] == [*rate, *[rate[-1]] * 3]
    assert as_schedule(0.1)(5) == 0.1
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        as_schedule(np.ones((2, 2)))
