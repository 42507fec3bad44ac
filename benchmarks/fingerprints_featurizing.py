"""Reading SMILES into graphs: beside RDKit's own parse, which is part of it, and by several processes.

    python benchmarks/fingerprints_featurizing.py          about a minute and a half
    python benchmarks/fingerprints_featurizing.py --quick  to see that it runs

Delaney's molecules, over and over. A process that is started imports this file again, so nothing heavy
stands here.
"""

import statistics
import sys
import time

from rdkit import Chem

from chainrule.fingerprints import featurize, load

ROUNDS = 7
COPIES = 160  # of the set, for several processes: enough that the second which each needs to start is little
PROCESSES = (1, 2)


def main() -> None:
    quick = "--quick" in sys.argv
    smiles = list(load("solubility").molecules.smiles)
    ours, parse = [], []
    for _ in range(3 if quick else ROUNDS):  # in turns, so that a busy machine slows both alike
        ours.append(seconds(lambda: featurize(smiles)) / len(smiles))
        parse.append(seconds(lambda: [Chem.MolFromSmiles(text) for text in smiles]) / len(smiles))
    whole, parsing = statistics.median(ours), statistics.median(parse)
    print(
        f"SMILES to graphs: {1 / whole:.0f} molecules per second on one thread, {1e6 * whole:.0f} "
        f"microseconds each, of which RDKit's parse alone takes {1e6 * parsing:.0f} ({parsing / whole:.0%})"
    )
    many = smiles * (COPIES // 16 if quick else COPIES)
    taken = {n: seconds(lambda n=n: featurize(many, processes=n)) for n in PROCESSES}
    for n, time_taken in taken.items():
        ratio = taken[1] / time_taken
        print(f"{len(many)} molecules, processes={n}: {time_taken:.1f} s, {ratio:.2f} times as fast as one")


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
