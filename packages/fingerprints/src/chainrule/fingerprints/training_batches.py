"""Batches to train on: shuffled rows of a table, whole or in equal parts, in at most three shapes.

One can
- shuffle rows (`shuffled_rows`),
- choose shapes that fit random batches of a table (`training_buckets`), and
- make a batch of some rows in one of these (`training_batch`), or parts of one (`training_parts`).

The table is one of molecules, or of their distinct environments (`environments`), of which the batches are
smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from chainrule.fingerprints.batches import Bucket, MoleculeBatch, collate, size_of, smallest
from chainrule.fingerprints.environments import (
    EnvironmentBatch,
    EnvironmentBucket,
    Environments,
    filled,
)
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.rows import as_rows

Table = Molecules | Environments
SAMPLES = 64  # random batches, whose sizes tell the usual one


def shuffled_rows(rows: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of rows, all of `batch_size`: every epoch a new order, the last short batch
    filled from the next epoch. No row is twice in a batch."""
    rng = np.random.default_rng(seed)
    batch_size = min(batch_size, len(rows))
    order = rng.permutation(rows)
    while True:
        if len(order) < batch_size:
            fresh = rng.permutation(rows)
            fresh = fresh[np.argsort(np.isin(fresh, order), kind="stable")]
            order = np.concatenate([order, fresh])
        yield order[:batch_size]
        order = order[batch_size:]


def training_buckets(table: Table, batch_size: int) -> tuple[Bucket | EnvironmentBucket, ...]:
    """Three shapes for random batches of a table: some four in five batches, the others, and the worst.

    The first holds a batch up to 1.5 standard deviations above the mean size, the second up to 5, the
    third the largest `batch_size` rows together: no batch of distinct rows can need a fourth.
    """
    valid = np.flatnonzero(table.valid)  # no batch has others
    worst = np.sort(table.sizes[valid], axis=0)[-batch_size:].sum(axis=0)
    worst = np.minimum(worst, table.needs(valid))
    draw, n = np.random.default_rng(0), min(batch_size, len(valid))
    samples = [table.needs(draw.choice(valid, n, replace=False)) for _ in range(SAMPLES)]
    mean, deviation = np.mean(samples, axis=0), np.std(samples, axis=0)
    usual = [np.ceil(np.minimum(worst, mean + k * deviation)).astype(int) for k in (1.5, 5)]
    needs = [_round_up(need, multiple=8) for need in (*usual, worst)]
    return tuple(dict.fromkeys(_bucket(table, batch_size, need) for need in needs))


def training_batch(
    table: Table, rows: np.ndarray, buckets: Sequence[Bucket | EnvironmentBucket]
) -> MoleculeBatch | EnvironmentBatch:
    """These rows as a batch in the smallest bucket that holds them.

    Raises:
        ValueError: a row that is not there, or buckets of another kind of table.

    Example:
        >>> from chainrule.fingerprints import distinct_environments, featurize
        >>> table = distinct_environments(featurize(["CCO", "CC(C)O", "CCCN", "c1ccccc1"]), depth=2)
        >>> buckets = training_buckets(table, batch_size=2)
        >>> order = shuffled_rows(np.arange(4), batch_size=2, seed=0)
        >>> training_batch(table, next(order), buckets).n_molecules
        2
    """
    return training_parts(table, as_rows(rows, len(table))[None], buckets, [0])[0]


def training_parts(
    table: Table,
    parts: Int[np.ndarray, "parts rows_of_part"],
    buckets: Sequence[Any],  # of the table's kind
    wanted: Sequence[int],
) -> list[MoleculeBatch | EnvironmentBatch]:
    """Some of the parts of a batch, each in the bucket that is the smallest to hold all, wanted or not."""
    if isinstance(table, Molecules):
        needs = np.max([table.needs(part) for part in parts], axis=0)
        bucket = smallest(buckets, _bucket(table, parts.shape[1], needs))
        return [collate(table, parts[part], bucket) for part in wanted]
    occurring = [table.occurring(part) for part in parts]
    needs = np.max([of_part.needs for of_part in occurring], axis=0)
    bucket = smallest(buckets, _bucket(table, parts.shape[1], needs))
    return [filled(table, occurring[part], bucket) for part in wanted]


def _bucket(table: Table, n: int, needs: Int[np.ndarray, " sizes"]) -> Any:
    """The shape, of the table's kind, of n rows that need this much."""
    return size_of(n, needs) if isinstance(table, Molecules) else table.bucket(n, needs)


def _round_up(n: Int[np.ndarray, " sizes"], multiple: int) -> Int[np.ndarray, " sizes"]:
    return -(-n // multiple) * multiple
