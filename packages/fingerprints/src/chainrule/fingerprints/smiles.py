"""What RDKit reads: SMILES, and drawn structures.

One can
- read a cell of a table (`read_cell`), or learn why it is no molecule (`Unreadable`),
- turn a drawn structure into SMILES (`of_molfile`),
- name a molecule, or a part of it (`canonical_smiles`, `fragment_smiles`, `scaffold_smiles`),
- compute RDKit's own Morgan fingerprints (`rdkit_fingerprints`).

What is taken from a molecule that was read stands in `graphs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

# RDKit looks for rings and finds bonds in a time that grows with the square of the size: a second here.
MAX_CHARACTERS = 10_000


class Unreadable(ValueError):
    """Why a row is no graph."""


def read_cell(text: str) -> Chem.Mol:
    """The molecule of a whole cell, which has an atom at least; or `Unreadable`."""
    if not text:
        raise Unreadable("empty cell")
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"{shown(text)} is {len(text)} characters long; at most {MAX_CHARACTERS} are read")
    if not text.isascii() or len(text.split()) > 1:  # RDKit would read up to a blank and drop the rest
        raise Unreadable(f"{shown(text)} is not a SMILES: blanks or other than ASCII characters within")
    mol = read(text)
    if not mol.GetNumAtoms():
        raise Unreadable(f"no atoms in {shown(text)}")
    return mol


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without RDKit's own messages: ours are in the reasons."""
    with rdBase.BlockLogs():
        yield


_AS_WRITTEN = Chem.SmilesParserParams()
_AS_WRITTEN.sanitize = _AS_WRITTEN.removeHs = False
_STEPS = Chem.SanitizeFlags
_SANITIZE = int(_STEPS.SANITIZE_ALL) & ~int(
    _STEPS.SANITIZE_SETHYBRIDIZATION | _STEPS.SANITIZE_CLEANUPCHIRALITY | _STEPS.SANITIZE_CLEANUPATROPISOMERS
)  # nothing here looks at what these three steps find
_SANITIZE_ORGANIC = _SANITIZE & ~int(
    _STEPS.SANITIZE_CLEANUP_ORGANOMETALLICS | _STEPS.SANITIZE_FINDRADICALS
)  # metals and radicals stand in brackets


def read(text: str) -> Chem.Mol:
    """What Chem.MolFromSmiles reads, but for stereochemistry: no feature sees it, and to assign it takes
    RDKit a time that grows with the square of the number of branches."""
    mol = Chem.MolFromSmiles(text, _AS_WRITTEN)
    why = ""
    if mol is not None:
        try:
            if "[" not in text:
                Chem.SanitizeMol(mol, _SANITIZE_ORGANIC)
            elif mol.GetNumHeavyAtoms() == mol.GetNumAtoms():
                Chem.SanitizeMol(mol, _SANITIZE)
            else:
                mol = Chem.RemoveHs(mol, updateExplicitCount=True)  # a copy, and sanitises it
            return mol
        except (Chem.MolSanitizeException, RuntimeError) as error:  # RuntimeError: such as element 119
            why = f": {' '.join(str(error).split('Violation occurred')[0].split())}"
    raise Unreadable(f"RDKit cannot read {shown(text)} as SMILES{why}")


def shown(text: str) -> str:
    return repr(text) if len(text) <= 100 else f"{text[:80]!r}..."


def canonical_smiles(smiles: str) -> str:
    """One name for one graph: RDKit's canonical SMILES without stereochemistry, which no feature here
    sees, so that two spellings or mirror images of a molecule count as the same.

    Raises:
        ValueError: RDKit cannot read it.
    """
    return Chem.MolToSmiles(read(smiles), isomericSmiles=False)


def fragment_smiles(smiles: str, atoms: Sequence[int]) -> str:
    """Canonical SMILES of some atoms of a molecule and the bonds between them, without stereochemistry.

    Every atom names its hydrogens, as nothing says what else it was bound to.
    """
    return Chem.MolFragmentToSmiles(
        read(smiles), atomsToUse=list(atoms), isomericSmiles=False, allHsExplicit=True
    )


def scaffold_smiles(smiles: str) -> str:
    """The rings of a molecule and what links them, as canonical SMILES; '' of a molecule without rings.

    Source: Bemis and Murcko, J. Med. Chem. 39, 2887, 1996.
    """
    return MurckoScaffold.MurckoScaffoldSmiles(mol=read(smiles))


def of_molfile(text: str) -> str:
    """SMILES of a drawn structure; '' where RDKit cannot read it, or there is none."""
    mol = Chem.MolFromMolBlock(text)
    return "" if mol is None else Chem.MolToSmiles(mol)


def rdkit_fingerprints(
    smiles: Sequence[str], radius: int, length: int, counts: bool
) -> Float[np.ndarray, "rows length"]:
    """RDKit's Morgan fingerprint of every cell; NaN where it cannot be read."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=length)
    compute = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    values = np.full((len(smiles), length), np.nan, np.float32)
    with quiet():
        for row, text in enumerate(smiles):
            with contextlib.suppress(Unreadable):
                values[row] = compute(read_cell(text))
    return values
