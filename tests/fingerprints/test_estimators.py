"""scikit-learn estimators: the same answers as the functions below them, and scikit-learn's own rules."""

import pickle
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from chainrule.fingerprints import (
    ModelConfig,
    TrainConfig,
    circular_fingerprints,
    featurize,
    init_weights,
    morgan_fingerprints,
    neural_fingerprint,
    predict,
    predict_distribution,
    random_splits,
)
from chainrule.fingerprints.batches import prediction_batches
from chainrule.fingerprints.fitting import fit

pd = pytest.importorskip("pandas")
estimators = pytest.importorskip("chainrule.fingerprints.estimators", reason="they need the extra [sklearn]")
from sklearn.base import clone  # noqa: E402
from sklearn.compose import make_column_transformer  # noqa: E402
from sklearn.linear_model import Ridge  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402
from sklearn.utils.validation import validate_data  # noqa: E402

SMILES = ["C" * i + end for i in range(1, 9) for end in ("O", "N", "Cl")]
Y = np.array([i / 2 + k for i in range(1, 9) for k in range(3)])
SIZES = {"depth": 1, "width": 4, "length": 8, "hidden": 16}
RUN = {"steps": 20, "batch_size": 8, "learning_rate": 0.03, "evaluate_every": 10}
TINY = SIZES | RUN
BROKEN = ["C(C", None, *SMILES]


@pytest.fixture(scope="module")
def regressor():
    return estimators.NeuralFingerprintRegressor(**TINY, random_state=3).fit(SMILES, Y)


@pytest.fixture(scope="module")
def uncertain():
    """Two targets, each missing somewhere, with their spread."""
    y = np.stack([Y, -Y], axis=1)
    y[::3, 0] = y[1::3, 1] = np.nan
    settings = TINY | {"task": "mean_variance", "on_invalid": "nan", "validation_fraction": 0.0}
    return estimators.NeuralFingerprintRegressor(**settings).fit(SMILES, y)


def test_the_regressor_is_fit_by_its_parameters(regressor):
    table, split = featurize(SMILES), random_splits(len(SMILES), 1, seed=3, test=0.0)[0]
    model = ModelConfig(**SIZES, variant="messages")
    expected = fit(table, Y, split, model, TrainConfig(**RUN, seed=3))
    np.testing.assert_array_equal(regressor.predict(SMILES), predict(expected.model, table))
    assert regressor.fitted_.validation == expected.validation
    assert regressor.predict(SMILES).std() > 0 and regressor.n_features_in_ == 1


def test_x_is_one_column_in_any_container(regressor):
    frame = pd.DataFrame({"smiles": SMILES})
    expected = regressor.predict(SMILES)
    series, texts = frame["smiles"], np.array(SMILES)
    for X in (tuple(SMILES), texts, texts.astype(object), series, frame, frame.to_numpy()):
        np.testing.assert_array_equal(regressor.predict(X), expected)
    named = estimators.CircularFingerprintTransformer().fit(frame)
    assert named.feature_names_in_ == ["smiles"]
    with pytest.raises(ValueError, match="feature names should match"):
        named.transform(frame.rename(columns={"smiles": "structure"}))


def test_a_pickle_predicts_the_same_and_a_clone_knows_nothing(regressor):
    again = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(again.predict(SMILES), regressor.predict(SMILES))
    assert clone(regressor).get_params() == regressor.get_params()
    with pytest.raises(ValueError, match="not fitted yet"):
        clone(regressor).predict(SMILES)


def test_a_search_finds_what_learns(regressor):
    grid = {"learning_rate": [1e-9, 0.03], "random_state": [3]}
    search = GridSearchCV(clone(regressor), grid, cv=[(np.arange(24), np.arange(24))])
    assert search.fit(SMILES, Y).best_params_["learning_rate"] == 0.03
    assert search.best_score_ == regressor.score(SMILES, Y)


def test_what_was_not_measured_is_not_learned(uncertain):
    mean, std = uncertain.predict(SMILES, return_std=True)
    assert mean.shape == std.shape == (24, 2) and (std > 0).all()
    expected = predict_distribution(uncertain.fitted_.model, featurize(SMILES))
    np.testing.assert_array_equal([mean, std], expected)
    np.testing.assert_array_equal(uncertain.predict(SMILES), mean)
    scale = uncertain.fitted_.model.head.mean[...]  # of what was measured, and of nothing else
    np.testing.assert_allclose(scale, [Y[np.arange(24) % 3 > 0].mean(), -Y[np.arange(24) % 3 != 1].mean()])


def test_invalid_rows_are_nan_and_not_learned_from(uncertain):
    y = np.concatenate([np.full((2, 2), 1e6), np.stack([Y, -Y], axis=1)])
    y[2::3, 0] = y[3::3, 1] = np.nan
    again = clone(uncertain).fit(BROKEN, y)
    answers = again.predict(BROKEN)
    np.testing.assert_array_equal(np.isnan(answers).any(axis=1), np.arange(26) < 2)
    np.testing.assert_allclose(answers[2:], uncertain.predict(SMILES), rtol=1e-5)


def test_members_are_an_ensemble_that_knows_its_spread(regressor):
    ensemble = clone(regressor).set_params(members=2, steps=2).fit(SMILES, Y)
    mean, std = ensemble.predict(SMILES, return_std=True)
    members = [predict(ensemble.fitted_.model.member(k), featurize(SMILES)) for k in range(2)]
    np.testing.assert_allclose(mean, np.mean(members, axis=0), rtol=1e-5)
    np.testing.assert_allclose(std, np.std(members, axis=0), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="return_std=True needs members=5"):
        regressor.predict(SMILES, return_std=True)


@pytest.mark.parametrize("labels", [("dry", "wet"), (False, True), (3, 7), (-1.5, 2.0)])
def test_classes_are_any_two_labels(labels):
    y = np.array(labels)[(Y > 3).astype(int)]
    classifier = estimators.NeuralFingerprintClassifier(**TINY, on_invalid="nan").fit(SMILES, y)
    p = classifier.predict_proba(SMILES)
    assert classifier.classes_.tolist() == list(labels) and classifier.classes_.dtype == y.dtype
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(p[:, 1], predict(classifier.fitted_.model, featurize(SMILES)))
    np.testing.assert_array_equal(classifier.predict(SMILES), np.array(labels)[p.argmax(axis=1)])
    assert p[Y > 3, 1].mean() > p[Y <= 3, 1].mean()  # the second is the yes
    broken, *found = classifier.predict(BROKEN)[1:]
    assert broken != broken and found == classifier.predict(SMILES).tolist()


def test_questions_side_by_side_have_classes_of_their_own():
    y = np.stack([np.where(Y > 3, "yes", "no"), np.where(Y > 2, "b", "a")], axis=1).astype(object)
    y[0, 0], y[5, 1] = None, np.nan
    classifier = estimators.NeuralFingerprintClassifier(**TINY).fit(SMILES, y)
    assert [classes.tolist() for classes in classifier.classes_] == [["no", "yes"], ["a", "b"]]
    probabilities = classifier.predict_proba(SMILES)
    expected = predict(classifier.fitted_.model, featurize(SMILES))
    np.testing.assert_array_equal(np.stack([p[:, 1] for p in probabilities], axis=1), expected)
    for k, p in enumerate(probabilities):
        found = classifier.predict(SMILES)[:, k]
        np.testing.assert_array_equal(found, classifier.classes_[k][p.argmax(axis=1)])


@pytest.mark.parametrize(("kind", "rule"), [("morgan", "morgan"), ("circular", "algorithm 1")])
@pytest.mark.parametrize("counts", [False, True])
def test_circular_features_are_circular_fingerprints(kind, rule, counts):
    transformer = estimators.CircularFingerprintTransformer(kind=kind, radius=1, length=32, counts=counts)
    settings = {"rule": rule, "radius": 1, "length": 32, "counts": counts}
    expected = circular_fingerprints(featurize(SMILES), **settings)
    np.testing.assert_array_equal(transformer.transform(SMILES), expected)
    frame = pd.DataFrame({"smiles": SMILES}, index=range(100, 124))
    table = clone(transformer).set_output(transform="pandas").fit_transform(frame)
    assert list(table.columns) == [f"fp{i}" for i in range(32)] and table.index.equals(frame.index)
    np.testing.assert_array_equal(table, expected)


def test_what_only_rdkit_can_read_has_a_fingerprint_and_a_warning():
    six = "F[Si-2](F)(F)(F)(F)F"
    transformer = estimators.CircularFingerprintTransformer(length=32, on_invalid="nan")
    with pytest.warns(UserWarning, match="left to RDKit: row 1"):
        found = transformer.fit_transform(["CCO", six, "C(C"])
    np.testing.assert_array_equal(found, morgan_fingerprints(featurize(["CCO", six, "C(C"]), length=32))
    assert np.isfinite(found[:2]).all() and np.isnan(found[2]).all()


def test_a_pipeline_is_its_parts():
    frame = pd.DataFrame({"smiles": SMILES, "size": np.arange(24.0)})
    circular = estimators.CircularFingerprintTransformer(length=32, counts=True)
    both = make_column_transformer((circular, "smiles"), ("passthrough", ["size"]))
    pipeline = make_pipeline(both, Ridge())
    counts = morgan_fingerprints(featurize(SMILES), length=32, counts=True)
    features = np.column_stack([counts, np.arange(24.0)])
    expected = cross_val_score(Ridge(), features, Y, cv=3)
    np.testing.assert_allclose(cross_val_score(pipeline, frame, Y, cv=3), expected, rtol=1e-4)


def test_random_features_are_fingerprints_of_random_weights():
    settings = {"depth": 2, "width": 8, "length": 64, "random_state": 5}
    transformer = estimators.NeuralFingerprintTransformer(**settings, random_weights=100.0)
    found = transformer.fit(SMILES).transform(SMILES)
    np.testing.assert_array_equal(clone(transformer).fit_transform(SMILES, Y), found)
    key = nnx.Rngs(5).params()
    weights = init_weights(key, depth=2, width=8, length=64, variant="messages", scale=100.0)
    ((rows, batch),) = prediction_batches(featurize(SMILES))
    expected = neural_fingerprint(weights, batch, activation=jax.numpy.tanh)[: len(rows)]
    np.testing.assert_allclose(found[rows], expected, atol=1e-4)
    assert np.mean(np.abs(found - np.round(found)) < 0.01) > 0.9  # large weights count, as a hash does


def test_trained_features_are_those_below_the_head(regressor):
    transformer = estimators.NeuralFingerprintTransformer(**TINY, random_state=3).fit(SMILES, Y)
    expected = predict(regressor.fitted_.model.fingerprint, featurize(SMILES))
    np.testing.assert_array_equal(transformer.transform(SMILES), expected)
    again = pickle.loads(pickle.dumps(transformer))
    np.testing.assert_array_equal(again.transform(SMILES), expected)


def test_random_state_is_the_only_chance():
    draw = lambda state: estimators.NeuralFingerprintTransformer(
        **SIZES, random_weights=1.0, random_state=state
    ).fit_transform(SMILES)
    np.testing.assert_array_equal(draw(1), draw(1))
    np.testing.assert_array_equal(draw(np.random.RandomState(1)), draw(np.random.RandomState(1)))
    assert (draw(1) != draw(2)).any() and (draw(None) != draw(None)).any()


REGRESSOR, CLASSIFIER = estimators.NeuralFingerprintRegressor, estimators.NeuralFingerprintClassifier
CIRCULAR, NEURAL = estimators.CircularFingerprintTransformer, estimators.NeuralFingerprintTransformer


@pytest.mark.parametrize(
    ("make", "settings", "X", "y", "message"),
    [
        (REGRESSOR, {}, ["CC", "C(C"], [1, 2], r"row 1 of X .* 'C\(C': RDKit cannot .*on_invalid='nan'"),
        (CIRCULAR, {}, ["CC", None], None, "row 1 of X has the SMILES '': empty cell; leave it out, or"),
        (REGRESSOR, {}, "CC", [1], r"X has shape \(\); give one column"),
        (REGRESSOR, {}, [["CC", "C"]], [1], r"X has shape \(1, 2\); give one column"),
        (REGRESSOR, {}, ["CC", "C"], [1], "inconsistent numbers of samples"),
        (REGRESSOR, {}, ["CC", "C"], None, "requires y to be passed"),
        (
            REGRESSOR,
            {"validation_fraction": 0.0},
            ["CC", "C"],
            [1, np.nan],
            "row 1 has target nan; leave it out",
        ),
        (REGRESSOR, {}, ["CC", "C"], [[1, np.nan], [2, np.nan]], "column 1 of y has no value"),
        (REGRESSOR, {"on_invalid": "nan"}, ["x", "y"], [1, 2], "2 rows and no molecule to learn from"),
        (REGRESSOR, {}, ["CC", "C"], [1, 2], "validation_fraction=0.1 of n_samples=2 leaves no molecule"),
        (REGRESSOR, {"task": "classification"}, ["CC"], [1], "NeuralFingerprintClassifier"),
        (REGRESSOR, {"on_invalid": "drop"}, ["CC"], [1], "on_invalid='drop' must be 'fail' or 'nan'"),
        (CLASSIFIER, {}, ["CC", "C"], ["a", "a"], "column 0 of y has 1 classes: 'a';"),
        (CLASSIFIER, {}, ["CC", "C", "CO"], [1, 2, 3], "Only binary classification .* 3 classes: 1, 2, 3; "),
        (NEURAL, {}, ["CC"], None, "give targets to train on, or set random_weights=10.0"),
        (CIRCULAR, {"kind": "ecfp"}, ["CC"], None, r"kind='ecfp' must be one of \('morgan', 'circular'\)"),
    ],
)
def test_errors_name_the_row_or_the_parameter(make, settings, X, y, message):
    estimator = make().set_params(**settings)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y) if make is not CIRCULAR else estimator.fit_transform(X)


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, estimators.__name__)
    with pytest.raises(ImportError, match=r"chainrule-fingerprints\[sklearn\]"):
        __import__(estimators.__name__)


class _OfNumbers:
    """scikit-learn's own checks bring numbers: here every row of them stands for some molecule."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        for learner in (tags.regressor_tags, tags.classifier_tags):
            if learner is not None:
                learner.poor_score = True  # the molecule tells little of the numbers
        return tags

    def _column(self, X, *, fitting=False):
        sums = np.abs(validate_data(self, X, reset=fitting).astype(float).sum(axis=1))
        return [SMILES[int(1000 * total) % len(SMILES)] for total in sums]


class CircularOfNumbers(_OfNumbers, CIRCULAR):
    pass


class RandomOfNumbers(_OfNumbers, NEURAL):
    pass


class RegressorOfNumbers(_OfNumbers, REGRESSOR):
    pass


class ClassifierOfNumbers(_OfNumbers, CLASSIFIER):
    pass


QUICK = SIZES | {"steps": 2, "batch_size": 8, "evaluate_every": 2}
# What learns is asked for the rules of parameters, and for one fit; the others would take minutes.
OF_LEARNERS = """
    check_estimator_cloneable check_estimator_repr check_no_attributes_set_in_init check_mixin_order
    check_valid_tag_types check_parameters_default_constructible check_get_params_invariance check_set_params
    check_estimators_unfitted check_requires_y_none check_fit_idempotent check_fit2d_1sample
    check_classifier_not_supporting_multiclass
""".split()
IMPOSSIBLE = {
    "check_array_api_input": "SMILES are no array of numbers",
    "check_do_not_raise_errors_in_init_or_set_params": "the types that these tests check at run time do",
    "check_complex_data": "any two labels that sort are classes",
    "check_classifiers_regression_target": "numbers may be labels; if there are more than two, that is said",
}


def rules():
    """Pairs of an estimator and a check."""
    for one in (CircularOfNumbers(length=8), RandomOfNumbers(**QUICK, random_weights=1.0)):
        yield from estimator_checks.estimator_checks_generator(one)
    for one in (RegressorOfNumbers(**QUICK), ClassifierOfNumbers(**QUICK)):
        for _, check in estimator_checks.estimator_checks_generator(one):
            if check.func.__name__ in OF_LEARNERS:
                yield one, check


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(one, check, id=f"{type(one).__name__}-{check.func.__name__}")
        for one, check in rules()
        if check.func.__name__ not in IMPOSSIBLE
    ],
)
def test_scikit_learns_rules_hold(estimator, check):
    check(estimator)
