"""Reading SMILES into graphs: beside RDKit's own parse, which is part of it, and by several processes.

    python benchmarks/fingerprints_featurizing.py          about a minute and a half
    python benchmarks/fingerprints_featurizing.py --quick  to see that it runs

Delaney's molecules where $CHAINRULE_DATA has them, or else those of the solubility set, over and over. One
thread is measured by the processor's time, to which other programs add only what they take of its caches;
several processes by the clock. A process that is started imports this file again, so nothing heavy stands
here.
"""

import os
import statistics
import sys
import time
from pathlib import Path

from rdkit import Chem

from chainrule.fingerprints import featurize, load
from chainrule.fingerprints.datasets import SOURCES

ROUNDS = 15
COPIES = 160  # of the set, for several processes: enough that the second which each needs to start is little
PROCESSES = (1, 2)


def main() -> None:
    quick = "--quick" in sys.argv
    folder = os.environ.get("CHAINRULE_DATA")
    name = (
        "delaney" if folder and Path(folder, SOURCES["delaney"].path).expanduser().is_file() else "solubility"
    )
    smiles = list(load(name).molecules.smiles)
    rounds = 3 if quick else ROUNDS
    ours, parse = [], []
    for _ in range(rounds):  # in turns, so that a busy machine slows both alike
        ours.append(seconds(lambda: featurize(smiles), time.process_time) / len(smiles))
        parse.append(seconds(lambda: parse_alone(smiles), time.process_time) / len(smiles))
    whole, parsing = statistics.median(ours), statistics.median(parse)
    print(
        f"{len(smiles)} molecules of the set {name}, medians of {rounds}\n"
        f"SMILES to graphs: {1 / whole:.0f} molecules per second of one thread, {1e6 * whole:.0f} "
        f"microseconds each, of which RDKit's parse alone takes {1e6 * parsing:.0f} ({parsing / whole:.0%})"
    )
    many = smiles * (COPIES // 16 if quick else COPIES)
    taken = {n: seconds(lambda n=n: featurize(many, processes=n), time.perf_counter) for n in PROCESSES}
    for n, time_taken in taken.items():
        ratio = taken[1] / time_taken
        print(f"{len(many)} molecules, processes={n}: {time_taken:.1f} s, {ratio:.2f} times as fast as one")


def parse_alone(smiles) -> None:
    for text in smiles:
        Chem.MolFromSmiles(text)


def seconds(work, clock) -> float:
    start = clock()
    work()
    return clock() - start


if __name__ == "__main__":
    main()
