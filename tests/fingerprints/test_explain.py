"""Explanations add up to what they explain, and the drawings show it."""

import numpy as np
import pytest
from flax import nnx
from rdkit import Chem

from chainrule.fingerprints import (
    PropertyModel,
    atom_contributions,
    featurize,
    most_predictive_features,
    predict,
    top_fragments,
)
from chainrule.fingerprints.draw import draw_fragments
from chainrule.fingerprints.explain import feature_weights, surroundings


@pytest.fixture(scope="module", params=["talk", "original"])
def linear(request):
    model = PropertyModel(depth=3, width=8, length=16, variant=request.param, hidden=0, rngs=nnx.Rngs(0))
    model.head.fit_scale(np.array([-5.0, 1.0, 4.0]))
    return model


def test_contributions_of_atoms_add_up_to_the_prediction(table, linear):
    contributions, base = atom_contributions(linear, table)
    assert [len(c) for c in contributions] == table.atoms_per_molecule.tolist()
    sums = [base + c.sum() for c in contributions]
    np.testing.assert_allclose(sums, predict(linear, table), rtol=1e-4, atol=1e-4)


def test_a_row_without_atoms_has_no_contributions(linear):
    contributions, _ = atom_contributions(linear, featurize(["bad", "CC"]))
    assert [len(c) for c in contributions] == [0, 2]
    assert atom_contributions(linear, featurize([]))[0] == []
    assert top_fragments(linear, featurize([]), [0])[0].fragments == []


def test_mirror_images_are_one_fragment(linear):
    (feature,) = top_fragments(linear, featurize(["C[C@H](O)N", "C[C@@H](O)N"]), [0], n=20)
    assert not [fragment.smiles for fragment in feature.fragments if "@" in fragment.smiles]


def test_equivalent_atoms_contribute_equally(table, linear):
    contributions, _ = atom_contributions(linear, table)
    np.testing.assert_allclose(contributions[3], contributions[3][0], rtol=1e-4)  # benzene


def test_predictive_features_are_the_extreme_weights(linear):
    weights = feature_weights(linear)
    highest, lowest = most_predictive_features(linear, 2)
    assert weights[highest[0]] == weights.max() and weights[lowest[0]] == weights.min()
    with pytest.raises(ValueError, match="hidden=0"):
        most_predictive_features(PropertyModel(rngs=nnx.Rngs(0)))


def test_top_fragments_are_distinct_sorted_and_connected(table, linear):
    (feature,) = top_fragments(linear, table, [5], n=7)
    assert feature.index == 5 and len(feature.fragments) == 7
    activations = [fragment.activation for fragment in feature.fragments]
    assert activations == sorted(activations, reverse=True)
    assert len({fragment.smiles for fragment in feature.fragments}) == 7
    for fragment in feature.fragments:
        mol = Chem.MolFromSmiles(table.smiles[fragment.row])
        distance = Chem.GetDistanceMatrix(mol)[fragment.atom]
        assert fragment.atoms == tuple(np.flatnonzero(distance <= fragment.radius).tolist())
        assert 0 <= fragment.activation <= 1


def test_no_fragment_is_more_active_than_the_first(table, linear):
    """By brute force over the atoms that each layer of the fingerprint sees."""
    alone = [top_fragments(linear, table.take([row]), [2], n=1)[0].fragments[0] for row in range(len(table))]
    (together,) = top_fragments(linear, table, [2], n=1)
    np.testing.assert_allclose(together.fragments[0].activation, max(f.activation for f in alone), rtol=1e-5)


def test_surroundings_stop_at_the_radius(table):
    first = int(table.atom_offsets[13])  # a chain of 22 carbons
    assert surroundings(table, first, 3) == {first, first + 1, first + 2, first + 3}
    assert surroundings(table, first, 0) == {first}


def test_drawings_highlight_the_fragment_in_both_formats(table, linear, tmp_path):
    (feature,) = top_fragments(linear, table, [0], n=4)
    svg, png = draw_fragments(table, feature.fragments, tmp_path / "some" / "fragments.v1")
    assert svg.name == "fragments.v1.svg" and png.name == "fragments.v1.png"
    text = svg.read_text()
    assert text.lstrip().startswith("<?xml") and "#8CBFFF" in text.upper()
    assert png.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no fragments"):
        draw_fragments(table, [], tmp_path / "none")
