"""Molecules that the tests share: every degree from 0 to 5, rings, salts, charges, many sizes."""

import pytest

from chainrule.fingerprints import featurize

SMILES = [
    "C",  # a lone atom, degree 0
    "CC",
    "CCO",
    "c1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
    "C(Cl)(Cl)(Cl)Cl",
    "FP(F)(F)(F)F",  # degree 5
    "[Na+].[Cl-]",
    "O=[N+]([O-])c1ccc(N)cc1",
    "C1CC2CCC1CC2",
    "C#CC=CC#N",
    "OCC3OC(OCC2OC(OC(C#N)c1ccccc1)C(O)C(O)C2O)C(O)C(O)C3O",
    "CCCCCCCCCCCCCCCCCCCCCC",
    "CS(=O)(=O)C",
]


@pytest.fixture(scope="session")
def table():
    return featurize(SMILES)
