"""Many devices, or many processes, learn what one does.

This file is also the program that has them: python test_parallel_training.py devices FOLDER, or
processes PORT NUMBER.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from chainrule.fingerprints import Ensemble, Head, PropertyModel, TrainConfig, featurize, train

CONFIG = TrainConfig(steps=30, batch_size=16, evaluate_every=5, checkpoint_every=10, learning_rate=1e-2)
PATIENCE = 120  # seconds for a child to end by itself; alone it takes some 15
ROWS = np.arange(64), np.arange(64, 80)


def molecules(mesh=None, shift=0.0):
    """History of a model of two properties, of which many were not measured."""
    rng = np.random.default_rng(0)
    table = featurize(
        ["".join(rng.choice(["C", "O", "C(C)", "c1ccccc1"], n)) for n in rng.integers(1, 9, 80)]
    )
    atoms = table.atoms_per_molecule.astype(float)
    targets = np.stack([atoms + shift, np.sin(atoms)], axis=1)
    targets[rng.random(80) < 0.6, 0] = np.nan  # so that parts of a batch differ in how many were measured
    model = PropertyModel(depth=1, width=4, length=8, hidden=4, targets=2, rngs=nnx.Rngs(0))
    return train(model, table, targets, *ROWS, CONFIG, mesh=mesh).history


def ensemble(mesh=None, **settings):
    """Result of three heads on given features."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(80, 5)), rng.normal(size=80)
    models = Ensemble([Head(5, hidden=4, rngs=nnx.Rngs(seed)) for seed in range(3)])
    return train(models, features, targets, *ROWS, CONFIG, mesh=mesh, **settings)


def weights(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(result.model, nnx.Param))]


def assert_same_history(one, other):
    assert len(one) == CONFIG.steps // CONFIG.evaluate_every
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_allclose(list(left.values()), list(right.values()), rtol=1e-5)


def refusal(call, *arguments, **settings):
    with pytest.raises(ValueError) as error:
        call(*arguments, **settings)
    return str(error.value)


class Killed(Exception):
    pass


def kill(metrics):
    if metrics["step"] > 20:
        raise Killed


def devices(folder):
    """All that needs many devices in one process."""
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    one, whole = ensemble(), ensemble(mesh)
    resumed = {}
    for then, name in ((mesh, "there"), (None, "on one device")):
        with pytest.raises(Killed):
            ensemble(mesh, run_dir=folder / name, log=kill)
        seen = []
        resumed[name] = ensemble(then, run_dir=folder / name, log=seen.append)
        assert len(seen) == 2  # it went on from the checkpoint of step 20
    five = jax.sharding.Mesh(jax.devices()[:5], "a")
    return {
        "devices": jax.device_count(),
        "molecules": [molecules(), molecules(mesh)],
        "ensemble": [one.history, whole.history],
        "changed": max(float(abs(a - b).max()) for a, b in zip(weights(one), weights(whole), strict=True)),
        "resumed there": resumed["there"].history == whole.history
        and all(map(np.array_equal, weights(resumed["there"]), weights(whole))),
        "resumed on one device": resumed["on one device"].history,
        "one device holds the result": all(
            len(leaf.devices()) == 1 for leaf in jax.tree.leaves(nnx.state(whole.model))
        ),
        "indivisible": refusal(ensemble, five),
    }


def processes(port, number):
    """All that needs several processes, as one of them."""
    jax.distributed.initialize(f"localhost:{port}", 2, number, initialization_timeout=PATIENCE // 2)
    mesh = jax.make_mesh((jax.device_count(),), ("all",))
    there = jax.sharding.Mesh([d for d in jax.devices() if d.process_index != number], "others")
    return {
        "devices": jax.device_count(),
        "history": molecules(mesh),
        "disagreement": refusal(molecules, mesh, shift=number),
        "elsewhere": refusal(ensemble, there),
        "run_dir": refusal(ensemble, mesh, run_dir="never made"),
    }


def child(*arguments, device_count):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={device_count}"
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(*children):
    """What each of them found; none of them outlives the test."""
    try:
        ends = [each.communicate(timeout=PATIENCE) for each in children]
    finally:
        for each in children:
            each.kill()
            each.communicate()
    for each, (_, errors) in zip(children, ends, strict=True):
        assert each.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    found = answers(child("devices", tmp_path_factory.mktemp("runs"), device_count=8))[0]
    assert found["devices"] == 8
    return found


@pytest.mark.slow
@pytest.mark.parametrize("what", ["molecules", "ensemble"])
def test_eight_devices_learn_what_one_learns(eight, what):
    assert_same_history(*eight[what])
    assert eight["changed"] < 1e-4
    assert eight["one device holds the result"]


@pytest.mark.slow
def test_a_run_on_a_mesh_resumes_to_the_same_bits_and_on_one_device_to_the_same_numbers(eight):
    assert eight["resumed there"]
    assert_same_history(eight["resumed on one device"], eight["ensemble"][0])


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_equally_is_refused(eight):
    assert "a batch of 16 rows cannot be shared equally by the 5 devices" in eight["indivisible"]
    assert "batch_size that 5 divides" in eight["indivisible"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_refuse_different_tasks():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = answers(*(child("processes", port, number, device_count=2) for number in (0, 1)))
    assert both[0]["history"] == both[1]["history"]
    assert_same_history(both[0]["history"], molecules())
    for number, found in enumerate(both):
        assert found["devices"] == 4
        assert "process 1 was given other data than process 0" in found["disagreement"]
        assert f"no device of the mesh belongs to process {number}" in found["elsewhere"]
        assert "with those of several processes leave it out" in found["run_dir"]


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    found = devices(Path(*arguments)) if kind == "devices" else processes(*map(int, arguments))
    sys.stdout.write(json.dumps(found) + "\n")
