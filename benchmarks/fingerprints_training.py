"""Training steps of the neural fingerprint beside PyTorch Geometric's, in one process.

Both take the same molecules, collated beforehand, through fingerprint, head (length -> 100 -> 1),
gradient and Adam. Ours has more to do: bond features, which PyG's NeuralFingerprint lacks. Timings
of the two alternate; the median counts. Threads are pinned by the environment (OMP_NUM_THREADS). Before
that: one epoch from SMILES in a process that has compiled nothing.

    python benchmarks/fingerprints_training.py          the whole table
    python benchmarks/fingerprints_training.py --quick  one row
"""

from __future__ import annotations

import os
import sys
import time

import jax
import numpy as np
from flax import nnx

from chainrule.fingerprints import (
    PropertyModel,
    TrainConfig,
    distinct_environments,
    featurize,
    load,
    train,
    training_batch,
    training_buckets,
)
from chainrule.fingerprints.training import _adamw, _train_step

REPETITIONS = 7
SECONDS = 0.4  # of each timing
DEPTH = 4
SIZES = [(b, h, n) for b in (100, 1000) for h in (20, 128) for n in (50, 512)]


def main() -> None:
    threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    dataset = load("solubility")
    sizes = SIZES[:1] if "--quick" in sys.argv else SIZES
    try:
        peers = pyg_steps
        import torch
        import torch_geometric

        if threads:
            torch.set_num_threads(threads)
        versions = f"torch {torch.__version__}, torch_geometric {torch_geometric.__version__}"
    except ImportError as error:
        peers, versions = None, f"PyTorch Geometric is missing ({error}): no ratios"
    print(f"jax {jax.__version__} on {jax.default_backend()}, {versions}, {threads or 'all'} threads")
    cold_epoch(dataset)
    print("\nmolecules per second, training, median of", REPETITIONS)
    print(header(bool(peers)))
    for batch_size, hidden, length in sizes:
        rows = np.random.default_rng(0).permutation(len(dataset))[:batch_size]
        step, compile_seconds, megabytes = our_step(dataset, rows, hidden, length)
        steps = [step]
        if peers:
            steps += peers(dataset, rows, hidden, length)
        rates = [batch_size / seconds for seconds in alternate(steps)]
        print(line(batch_size, hidden, length, rates, compile_seconds, megabytes), flush=True)


def header(peers: bool) -> str:
    names = f"{'PyG':>11}{'ratio':>7}{'degree<=5':>11}{'ratio':>7}" if peers else ""
    return f"{'batch':>6}{'hidden':>7}{'length':>7}{'ours':>9}{names}{'compile s':>11}{'temp MB':>9}"


def line(batch_size, hidden, length, rates, compile_seconds, megabytes) -> str:
    """One row of the table: our rate, and each peer's with the ratio of ours to it."""
    ours, *others = rates
    cells = "".join(f"{rate:11.0f}{ours / rate:7.2f}" for rate in others)
    return f"{batch_size:6}{hidden:7}{length:7}{ours:9.0f}{cells}{compile_seconds:11.1f}{megabytes:9.1f}"


def alternate(steps) -> list[float]:
    """Median seconds per call of each, timed in turns after a warm-up."""
    counts = []
    for step in steps:
        step(3)
        start = time.perf_counter()
        step(3)
        counts.append(max(1, int(SECONDS * 3 / (time.perf_counter() - start))))
    seconds = [[] for _ in steps]
    for _ in range(REPETITIONS):
        for step, count, own in zip(steps, counts, seconds, strict=True):
            start = time.perf_counter()
            step(count)
            own.append((time.perf_counter() - start) / count)
    return [float(np.median(own)) for own in seconds]


def our_step(dataset, rows, hidden, length):
    model = PropertyModel(depth=DEPTH, width=hidden, length=length, hidden=100, rngs=nnx.Rngs(0))
    graphdef, params, frozen = nnx.split(model, nnx.Param, ...)
    table = distinct_environments(dataset.molecules, DEPTH)  # as `train` does
    batch = jax.device_put(training_batch(table, rows, training_buckets(table, len(rows))))
    targets = jax.device_put(dataset.targets[rows].astype(np.float32))
    numbers = np.float32(4.0), np.float32(1e-3), np.float32(0.0)
    state = [params, _adamw(0.0, 0.0).init(params)]
    start = time.perf_counter()
    compiled = _train_step.lower(
        graphdef, "regression", state[0], frozen, state[1], batch, targets, *numbers
    ).compile()
    seconds = time.perf_counter() - start

    def step(n):
        for _ in range(n):
            *state[:], loss = _train_step(
                graphdef, "regression", state[0], frozen, state[1], batch, targets, *numbers
            )
        jax.block_until_ready(loss)

    return step, seconds, compiled.memory_analysis().temp_size_in_bytes / 1e6


def pyg_steps(dataset, rows, hidden, length):
    import torch
    from torch_geometric.nn.models import NeuralFingerprint

    molecules = dataset.molecules.take(rows)
    ends = np.concatenate([molecules.bond_ends, molecules.bond_ends[:, ::-1]]).T
    x = torch.tensor(molecules.atoms, dtype=torch.float32)
    edges = torch.tensor(np.ascontiguousarray(ends), dtype=torch.long)
    owner = torch.tensor(np.repeat(np.arange(len(rows)), molecules.atoms_per_molecule))
    y = torch.tensor(dataset.targets[rows], dtype=torch.float32)

    def make(**settings):
        torch.manual_seed(0)
        fingerprint = NeuralFingerprint(x.shape[1], hidden, length, DEPTH, **settings)
        head = torch.nn.Sequential(torch.nn.Linear(length, 100), torch.nn.ReLU(), torch.nn.Linear(100, 1))
        optimizer = torch.optim.Adam([*fingerprint.parameters(), *head.parameters()], lr=1e-3)

        def step(n):
            for _ in range(n):
                optimizer.zero_grad()
                loss = ((head(fingerprint(x, edges, owner, len(rows)))[:, 0] - y) ** 2).mean()
                loss.backward()
                optimizer.step()

        return step

    return [make(), make(max_degree=5)]


def cold_epoch(dataset) -> None:
    """From SMILES to weights that have seen every molecule once, as a user would; and what of it is XLA's."""
    config = TrainConfig(steps=len(dataset) // 100, evaluate_every=len(dataset) // 100)
    seconds = []
    for _ in range(2):  # the second time, everything is compiled
        start = time.perf_counter()
        molecules, model = featurize(dataset.molecules.smiles), PropertyModel(rngs=nnx.Rngs(0))
        train(model, molecules, dataset.targets, np.arange(len(dataset)), (), config)
        seconds.append(time.perf_counter() - start)
    cold, warm = seconds
    print(f"an epoch of {len(dataset)} from SMILES: {warm:.2f} s, and {cold - warm:.1f} s to compile\n")


if __name__ == "__main__":
    main()
