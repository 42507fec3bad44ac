"""Drawings of molecules with the fragments that matter in colour, as SVG and PNG.

One can
- draw the fragments of a feature on their molecules (`draw_fragments`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from chainrule.fingerprints.explain import Fragment
from chainrule.fingerprints.molecules import Molecules

BLUE = (0.55, 0.75, 1.0)  # soluble, like water
ORANGE = (1.0, 0.72, 0.45)  # insoluble; the two also differ in grey
_CELL = (260, 220)  # pixels per drawing


def draw_fragments(
    molecules: Molecules,
    fragments: Sequence[Fragment],
    path: str | Path,
    *,
    colour: tuple[float, float, float] = BLUE,
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
    mols, bonds, legends = [], [], []
    for fragment in fragments:
        mol = Chem.MolFromSmiles(molecules.smiles[fragment.row])
        rdDepictor.Compute2DCoords(mol)
        inside = set(fragment.atoms)
        bonds.append(
            [
                bond.GetIdx()
                for bond in mol.GetBonds()
                if {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()} <= inside
            ]
        )
        mols.append(mol)
        legends.append(f"{fragment.smiles}   activation {fragment.activation:.2f}")
    columns = min(columns, len(mols))
    rows = -(-len(mols) // columns)
    width, height = _CELL
    written = []
    for suffix, canvas in ((".svg", rdMolDraw2D.MolDraw2DSVG), (".png", rdMolDraw2D.MolDraw2DCairo)):
        drawer = canvas(columns * width, rows * height, width, height)
        drawer.drawOptions().useBWAtomPalette()
        drawer.drawOptions().legendFontSize = 14
        drawer.DrawMolecules(
            mols,
            highlightAtoms=[list(fragment.atoms) for fragment in fragments],
            highlightBonds=bonds,
            highlightAtomColors=[{a: colour for a in f.atoms} for f in fragments],
            highlightBondColors=[{b: colour for b in some} for some in bonds],
            legends=legends,
        )
        drawer.FinishDrawing()
        content = drawer.GetDrawingText()
        file = Path(f"{path}{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        written.append(file)
    return written
