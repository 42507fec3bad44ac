"""The same function of many things, in several processes.

One can
- map a function over things without end, in order, with few of them in memory (`ordered_map`).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, processes: int
) -> Iterator[Result]:
    """function(task) of every task, in order, as soon as each is there.

    Args:
        function: of one task; with more than one process, a module's own function, found there by its name.
        tasks: read as results are taken; at most two for each process wait at a time.
        processes: 1 stays in this one. Others start anew ("spawn"), for JAX has threads that a forked
            process would not have.

    Raises:
        ValueError: `processes` is less than 1.
        RuntimeError: a process died, by a signal or for want of memory.
    """
    if processes < 1:
        raise ValueError(f"processes={processes} must be at least 1")
    if processes == 1:
        yield from map(function, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=(threads,))
    try:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of processes={processes} died: killed, for want of memory (use fewer), or because the "
            'program that started it does so without `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# What the number of threads is called, by OpenMP, BLAS and XLA.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC", "NPROC")


def _begin(threads: int) -> None:
    """In a process that has not loaded them yet. With as many threads as cores in each, processes would
    wait for one another, at more than twice the time."""
    for name in THREADS:
        os.environ.setdefault(name, str(threads))
    _end_with_parent()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next task for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
