"""Tanimoto search among a million fingerprints beside RDKit's, in one process.

Ours finds the ten most similar rows, each query's; RDKit's DataStructs.BulkTanimotoSimilarity compares one
query with all and leaves the choice of the best to its caller, here NumPy's argpartition. Both go through the
same random fingerprints of 2048 bits, some 50 of them set, as in Morgan fingerprints of drugs. Timings of the
two alternate; the median counts. RDKit's function runs on one thread; ours on as many as the environment
allows (OMP_NUM_THREADS and taskset for a CPU), or on the accelerator where there is one.

    python benchmarks/fingerprints_similarity.py          the whole table
    python benchmarks/fingerprints_similarity.py --quick  a tenth of the rows
"""

from __future__ import annotations

import os
import sys
import time

import jax
import numpy as np

from chainrule.fingerprints import most_similar

ROWS, BITS, SET_BITS = 1_000_000, 2048, 50
BATCHES = (1, 32)  # queries at a time
NEIGHBORS = 10
REPETITIONS = 5


def main() -> None:
    rows = ROWS // 10 if "--quick" in sys.argv else ROWS
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {threads} threads")
    packed = random_fingerprints(rows)
    queries = packed[np.random.default_rng(1).choice(rows, max(BATCHES), replace=False)]
    try:
        peer = rdkit_search(packed, queries)
    except ImportError as error:
        print(f"RDKit is missing ({error}): no ratios")
        peer = None
    database = jax.device_put(packed)
    if peer is not None:
        same_answers(jax.device_get(most_similar(queries, database, NEIGHBORS)), peer)
    print(f"\nmilliseconds per query among {rows} fingerprints of {BITS} bits, median of {REPETITIONS}")
    print(f"{'queries':>8}{'ours':>9}" + (f"{'RDKit':>9}{'ratio':>7}" if peer else ""))
    for batch in BATCHES:
        here = queries[:batch]
        calls = [lambda here=here: jax.block_until_ready(most_similar(here, database, NEIGHBORS))]
        if peer is not None:
            calls.append(lambda: [peer(0)])  # one at a time whatever the batch
        ours, *theirs = alternate(calls)
        line = f"{batch:8}{1e3 * ours / batch:9.2f}"
        print(line + "".join(f"{1e3 * t:9.2f}{t / (ours / batch):7.2f}" for t in theirs), flush=True)


def random_fingerprints(rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    packed = np.zeros((rows, BITS // 32), np.uint32)
    everyone = np.arange(rows)
    for _ in range(SET_BITS):
        bit = rng.integers(BITS, size=rows)
        packed[everyone, bit // 32] |= np.uint32(1) << (bit % 32).astype(np.uint32)
    return packed


def rdkit_search(packed: np.ndarray, queries: np.ndarray):
    """A function of a query's number that finds its neighbours as (rows, similarities)."""
    from rdkit import DataStructs

    as_vectors = lambda x: [DataStructs.CreateFromBinaryText(row.tobytes()) for row in x]
    vectors, asked = as_vectors(packed), as_vectors(queries)

    def search(i: int):
        similarities = np.array(DataStructs.BulkTanimotoSimilarity(asked[i], vectors))
        best = np.argpartition(-similarities, NEIGHBORS)[:NEIGHBORS]
        best = best[np.argsort(-similarities[best], kind="stable")]
        return best, similarities[best]

    return search


def same_answers(found, peer) -> None:
    """The fingerprints are worth timing only if both find the same similarities."""
    for i, ours in enumerate(found.similarities):
        np.testing.assert_allclose(ours, peer(i)[1], rtol=1e-6)


def alternate(calls) -> list[float]:
    """Median seconds of each, timed in turns after a warm-up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repetition in range(REPETITIONS + 1):
        for call, own in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if repetition:
                own.append(time.perf_counter() - start)
    return [float(np.median(own)) for own in seconds]


if __name__ == "__main__":
    main()
