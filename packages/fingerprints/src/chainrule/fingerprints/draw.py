"""Drawings of molecules with what matters in colour, as SVG and PNG.

One can
- draw the fragments of a feature on their molecules, in two files (`draw_fragments`),
- get one molecule as SVG text, to put into a page: with a fragment in colour (`fragment_svg`), or with
  what every atom adds to a prediction (`contributions_svg`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chainrule.fingerprints.explain import Fragment
from chainrule.fingerprints.molecules import Molecules
from chainrule.fingerprints.smiles import read

Colour = tuple[float, float, float]

BLUE = (0.55, 0.75, 1.0)  # soluble, like water
ORANGE = (1.0, 0.72, 0.45)  # insoluble; the two also differ in grey
_CELL = (260, 220)  # pixels per drawing of a grid
_SINGLE = (360, 240)  # pixels of a drawing by itself
_BOND = 36  # pixels, at most; large molecules are drawn smaller


class _Drawing(NamedTuple):
    """A molecule and its colours."""

    mol: Chem.Mol
    atoms: dict[int, Colour]
    bonds: dict[int, Colour]


def draw_fragments(
    molecules: Molecules,
    fragments: Sequence[Fragment],
    path: str | Path,
    *,
    colour: Colour = BLUE,
    columns: int = 3,
) -> list[Path]:
    """Draw each fragment highlighted on its molecule, in a grid; returns the two files written.

    Args:
        path: where, without suffix; `.svg` and `.png` are added.

    Raises:
        ValueError: there are no fragments.
    """
    if not fragments:
        raise ValueError("there are no fragments to draw")
    drawings = [_fragment(molecules, fragment, colour) for fragment in fragments]
    columns = min(columns, len(drawings))
    rows = -(-len(drawings) // columns)
    width, height = _CELL
    written = []
    for suffix, canvas in ((".svg", rdMolDraw2D.MolDraw2DSVG), (".png", rdMolDraw2D.MolDraw2DCairo)):
        drawer = canvas(columns * width, rows * height, width, height)
        content = _draw(drawer, drawings, [f"{f.smiles}   activation {f.activation:.2f}" for f in fragments])
        file = Path(f"{path}{suffix}").expanduser()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        written.append(file)
    return written


def fragment_svg(molecules: Molecules, fragment: Fragment, *, colour: Colour = BLUE) -> str:
    """The molecule of a fragment, the fragment in colour, as the text of an `<svg>` element."""
    return _svg([_fragment(molecules, fragment, colour)])


def contributions_svg(
    smiles: str,
    contributions: Float[np.ndarray, " atoms"],
    *,
    limit: float,
    notes: Mapping[int, str] | None = None,
) -> str:
    """A molecule with every atom coloured by what it adds, as the text of an `<svg>` element.

    Args:
        limit: the contribution of full colour, blue upward and orange downward; 0 is white.
        notes: text beside atoms, by their numbers within the molecule.
    """
    mol = _laid_out(smiles)
    for atom, note in (notes or {}).items():
        mol.GetAtomWithIdx(atom).SetProp("atomNote", note)
    atoms = {atom: shade(value, limit) for atom, value in enumerate(contributions.tolist())}
    return _svg([_Drawing(mol, atoms, {})])


def shade(value: float, limit: float) -> Colour:
    """Between white at 0 and blue at `limit`, orange at minus `limit`."""
    strength = min(1.0, abs(value) / limit) if limit > 0 else 0.0
    red, green, blue = (1 + strength * (full - 1) for full in (BLUE if value > 0 else ORANGE))
    return red, green, blue


def _fragment(molecules: Molecules, fragment: Fragment, colour: Colour) -> _Drawing:
    mol = _laid_out(molecules.smiles[fragment.row])
    inside = set(fragment.atoms)
    within = [b for b in mol.GetBonds() if {b.GetBeginAtomIdx(), b.GetEndAtomIdx()} <= inside]
    return _Drawing(mol, dict.fromkeys(inside, colour), {bond.GetIdx(): colour for bond in within})


def _laid_out(smiles: str) -> Chem.Mol:
    mol = read(smiles)  # as the features were, so that the atoms have the same numbers
    rdDepictor.Compute2DCoords(mol)
    return mol


def _svg(drawings: Sequence[_Drawing]) -> str:
    text = cast(str, _draw(rdMolDraw2D.MolDraw2DSVG(*_SINGLE), drawings, [""]))
    return text[text.index("<svg") :]  # an element of a page has no declaration of its own


def _draw(drawer, drawings: Sequence[_Drawing], legends: Sequence[str]) -> str | bytes:
    drawer.drawOptions().useBWAtomPalette()
    drawer.drawOptions().legendFontSize = 14
    drawer.drawOptions().annotationFontScale = 0.7
    drawer.drawOptions().fixedBondLength = _BOND
    drawer.DrawMolecules(
        [drawing.mol for drawing in drawings],
        highlightAtoms=[list(drawing.atoms) for drawing in drawings],
        highlightBonds=[list(drawing.bonds) for drawing in drawings],
        highlightAtomColors=[drawing.atoms for drawing in drawings],
        highlightBondColors=[drawing.bonds for drawing in drawings],
        legends=list(legends),
    )
    drawer.FinishDrawing()
    return drawer.GetDrawingText()
