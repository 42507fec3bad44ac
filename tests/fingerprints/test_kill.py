"""A run that the operating system kills goes on to what it would have been, bit for bit.

This file is also the program that is killed: python test_kill.py FOLDER.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from chainrule.fingerprints import Head, TrainConfig, train

CONFIG = TrainConfig(steps=60, batch_size=8, evaluate_every=2, checkpoint_every=4)  # saves most of the time
PATIENCE = 60  # seconds until the child must have got anywhere


def run(folder, log=None):
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=40)
    model = Head(5, hidden=4, rngs=nnx.Rngs(0))
    rows = np.arange(30), np.arange(30, 40)
    return train(model, features, targets, *rows, CONFIG, run_dir=folder, log=log)


@pytest.mark.slow
def test_a_run_killed_by_the_system_resumes_to_the_same_bits(tmp_path):
    part = tmp_path / "part"
    environment = os.environ | {"JAX_ENABLE_X64": "1"}  # as it is here
    with subprocess.Popen([sys.executable, __file__, part], env=environment) as child:
        deadline = time.monotonic() + PATIENCE
        while not list(part.glob("checkpoints/[1-9]?")):  # a whole one, of step 12 or later
            assert child.poll() is None and time.monotonic() < deadline, "the run ended by itself"
            time.sleep(0.001)
        child.kill()
    assert child.returncode == (-signal.SIGKILL if os.name == "posix" else 1)

    seen = []
    resumed = run(part, seen.append)
    whole = run(None)
    assert 0 < len(seen) < len(whole.history)  # it went on, not over again
    assert resumed.history == whole.history
    lines = (part / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == whole.history
    for left, right in zip(*(jax.tree.leaves(nnx.state(r.model)) for r in (resumed, whole)), strict=True):
        np.testing.assert_array_equal(left, right)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
