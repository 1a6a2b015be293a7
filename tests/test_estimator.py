"""`ForwardOnlyClassifier` behaves as a scikit-learn classifier."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import forwardonly as fo
from forwardonly.estimator import ForwardOnlyClassifier, ForwardOnlyRegressor

SMALL = {"hidden": (32, 32), "epochs": 20, "learning_rate": 5e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def split():
    return train_test_split(*load_digits(return_X_y=True), test_size=0.25, random_state=0)


@pytest.fixture(scope="module")
def fitted(split):
    return ForwardOnlyClassifier(**SMALL, random_state=0).fit(split[0], split[2])


def test_scikit_learns_own_checks():
    quick = ForwardOnlyClassifier(hidden=(16,), epochs=10, batch_size=32, learning_rate=0.02, precision="fp32")
    results = check_estimator(quick, on_skip=None)
    assert len(results) > 50
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert not any(result["expected_to_fail"] for result in results)


def test_accuracy_on_digits(fitted, split):
    assert fitted.score(split[1], split[3]) > 0.93


@pytest.mark.parametrize("rule", ["projection", "ff", "cff-adaptive", "backprop"])
def test_other_rules_learn_too(split, rule):
    options = {"negatives": "uniform"} if rule == "ff" else None
    classifier = ForwardOnlyClassifier(
        rule, (64, 64), rule_options=options, epochs=10, learning_rate=5e-3, precision="fp32", random_state=0
    )
    assert classifier.fit(split[0] / 16, split[2]).score(split[1] / 16, split[3]) > 0.85


def test_probabilities_and_decisions_agree_with_predictions(fitted, split):
    shares, scores, labels = (f(split[1]) for f in (fitted.predict_proba, fitted.decision_function, fitted.predict))
    assert shares.sum(1) == pytest.approx(np.ones(len(shares)))
    assert (fitted.classes_[shares.argmax(1)] == labels).all() and (fitted.classes_[scores.argmax(1)] == labels).all()


def test_two_classes_with_names():
    X, y = make_blobs(120, centers=2, random_state=1)
    names = np.array(["no", "yes"])[y]
    classifier = ForwardOnlyClassifier(**SMALL, random_state=0).fit(X, names)
    decision = classifier.decision_function(X)
    assert decision.shape == (120,)
    assert (np.where(decision > 0, "yes", "no") == classifier.predict(X)).all()
    assert classifier.score(X, names) > 0.95


def test_in_a_pipeline_a_grid_and_cross_validation(split):
    X, y = split[0][:400], split[2][:400]
    pipeline = make_pipeline(StandardScaler(), ForwardOnlyClassifier(**SMALL, random_state=0))
    assert cross_val_score(pipeline, X, y, cv=2).min() > 0.7
    pipeline.set_params(forwardonlyclassifier__epochs=5)
    grid = GridSearchCV(pipeline, {"forwardonlyclassifier__hidden": [(4,), (32,)]}, cv=2).fit(X, y)
    assert grid.best_params_ == {"forwardonlyclassifier__hidden": (32,)}


def test_clone_and_same_seed_give_the_same_predictions(fitted, split):
    again = clone(fitted).fit(split[0], split[2])
    assert (again.decision_function(split[1]) == fitted.decision_function(split[1])).all()


def test_partial_fit_learns_batch_by_batch(split):
    classifier = ForwardOnlyClassifier(**SMALL, batch_size=32, random_state=0)
    for _ in range(5):
        for start in range(0, 1200, 400):
            rows = slice(start, start + 400)
            classifier.partial_fit(split[0][rows], split[2][rows], classes=np.arange(10))
    assert classifier.score(split[1], split[3]) > 0.9
    with pytest.raises(ValueError, match="not among the classes"):
        classifier.partial_fit(split[0][:2], [3, 11])
    with pytest.raises(ValueError, match="since the first call"):
        classifier.partial_fit(split[0][:2], [3, 4], classes=[3, 4])
    with pytest.raises(ValueError, match="first call"):
        clone(classifier).partial_fit(split[0], split[2])


def test_saved_without_pickle(fitted, split, tmp_path):
    fitted.save(tmp_path)
    again = ForwardOnlyClassifier.load(tmp_path)
    assert (again.predict_proba(split[1]) == fitted.predict_proba(split[1])).all()
    assert again.get_params() == {**fitted.get_params(), "random_state": None, "hidden": [32, 32]}
    assert again.partial_fit(split[0], split[2]).score(split[1], split[3]) > 0.9
    kept = pickle.loads(pickle.dumps(fitted))  # as joblib does in a parallel grid search
    assert (kept.predict(split[1]) == fitted.predict(split[1])).all()


def test_mistakes_are_one_clear_sentence(split, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'hyperspherical'"):
        ForwardOnlyClassifier("hypersferical").fit(split[0], split[2])
    with pytest.raises(ValueError, match="one class"):
        ForwardOnlyClassifier().fit(split[0], np.zeros(len(split[0])))
    fo.save(fo.mlp((1, 2, 2), [4], rule=fo.rules.Projection(classes=2)), tmp_path)
    with pytest.raises(ValueError, match="was not written by ForwardOnlyClassifier"):
        ForwardOnlyClassifier.load(tmp_path)


def test_numpy_s_numbers_among_the_parameters_can_be_saved(tmp_path):
    """As a search over an array of values leaves them in the best estimator."""
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    options = {"hidden": (np.int64(4),), "epochs": np.int64(1), "learning_rate": np.float64(1e-3)}
    classifier = ForwardOnlyClassifier(rule_options={"margin": np.float64(0.2)}, **options).fit(X, y)
    classifier.save(tmp_path)
    loaded = ForwardOnlyClassifier.load(tmp_path)
    assert loaded.get_params()["rule_options"] == {"margin": 0.2} and type(loaded.epochs) is int
    assert np.array_equal(loaded.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rule": "hypersferical"}, "Unknown rule 'hypersferical': did you mean 'hyperspherical'"),
        ({"rule_options": {"margn": 1}}, "has no option 'margn': did you mean 'margin'"),
        ({"rule": "best", "rule_options": {"margin": 1}}, "The rule 'best' has no option 'margin'"),
    ],
)
def test_an_unknown_rule_or_option_of_one_is_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        ForwardOnlyClassifier(**options).fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)


NUMBERS = {"hidden": (32, 32), "epochs": 20, "learning_rate": 5e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return train_test_split(StandardScaler().fit_transform(X), y, test_size=0.25, random_state=0)


def test_scikit_learns_own_checks_of_the_regressor():
    quick = ForwardOnlyRegressor(hidden=(16,), epochs=10, batch_size=32, learning_rate=0.02, precision="fp32")
    results = check_estimator(quick, on_skip=None)
    assert len(results) > 45
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert not any(result["expected_to_fail"] for result in results)


@pytest.mark.parametrize("rule", ["projection", "auxiliary", "backprop"])
def test_numbers_are_learned(diabetes, rule):
    regressor = ForwardOnlyRegressor(rule, **{**NUMBERS, "epochs": 8}, random_state=0).fit(diabetes[0], diabetes[2])
    assert regressor.score(diabetes[1], diabetes[3]) > 0.2
    assert "does not learn numbers" in str(_refused(lambda: ForwardOnlyRegressor("ff").fit(diabetes[0], diabetes[2])))


def _refused(call):
    with pytest.raises(ValueError) as caught:
        call()
    return caught.value


def test_several_numbers_batch_by_batch_saved_and_loaded(diabetes, tmp_path):
    X, y = diabetes[0], np.stack([diabetes[2], -1e3 * diabetes[2] + 7], 1)
    regressor = ForwardOnlyRegressor(**NUMBERS, random_state=0)
    for _ in range(12):
        for start in range(0, len(X), 100):
            regressor.partial_fit(X[start : start + 100], y[start : start + 100])
    assert regressor.predict(X).shape == y.shape and regressor.score(X, y) > 0.4
    regressor.save(tmp_path)
    again = ForwardOnlyRegressor.load(tmp_path)
    assert (again.predict(X) == regressor.predict(X)).all()
    assert again.partial_fit(X, y).score(X, y) > 0.4
    assert "has 1 numbers a row, it had 2" in str(_refused(lambda: again.partial_fit(X, y[:, 0])))
    ForwardOnlyRegressor(**{**NUMBERS, "epochs": 1}).fit(X, y[:, 0]).save(tmp_path / "one")
    assert ForwardOnlyRegressor.load(tmp_path / "one").predict(X).shape == (len(X),)
    assert "was not written by ForwardOnlyClassifier" in str(_refused(lambda: ForwardOnlyClassifier.load(tmp_path)))


def test_what_was_learned_batch_by_batch_can_be_pickled_and_learns_on(split):
    """As process-parallel scikit-learn and joblib do."""
    X, _, y, _ = split
    ends = []
    for copied in (False, True):
        learner = ForwardOnlyClassifier(hidden=(16,), random_state=0)
        learner.partial_fit(X[:100], y[:100], classes=np.unique(y))
        learner = pickle.loads(pickle.dumps(learner)) if copied else learner
        ends.append(learner.partial_fit(X[100:200], y[100:200]).predict_proba(X[:50]))
    assert np.array_equal(*ends)


def test_numbers_far_from_zero_are_refused_where_float32_would_make_them_one(diabetes):
    X, y = diabetes[0], diabetes[2]
    said = str(_refused(lambda: ForwardOnlyRegressor(**NUMBERS).fit(X, 1.7e10 + y)))
    assert "differ by less than float32 keeps of them" in said


@pytest.mark.parametrize("dtype", ["M8[D]", "M8[ns]", "m8[s]"])
def test_dates_as_labels_are_saved(split, tmp_path, dtype):
    X, _, y, _ = split
    dates = (np.array(y[:100] % 2) * 100).astype(np.int64).astype(dtype)
    fitted = ForwardOnlyClassifier(hidden=(8,), epochs=1, random_state=0).fit(X[:100], dates)
    fitted.save(tmp_path)
    again = ForwardOnlyClassifier.load(tmp_path)
    assert again.classes_.dtype == fitted.classes_.dtype and np.array_equal(again.classes_, fitted.classes_)
    assert np.array_equal(again.predict(X), fitted.predict(X))


def test_labels_that_json_does_not_have_are_refused_in_a_sentence(split, tmp_path):
    X, _, y, _ = split
    fitted = ForwardOnlyClassifier(hidden=(8,), epochs=1, random_state=0).fit(X[:100], y[:100] % 2)
    fitted.classes_ = np.array([b"no", b"yes"])
    assert "cannot be saved as JSON" in str(_refused(lambda: fitted.save(tmp_path / "one")))
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("learn", ["fit", "partial_fit"])
def test_features_far_from_zero_are_refused_where_float32_would_make_them_one(diabetes, learn):
    X = np.c_[diabetes[0], 1.7e9 + np.arange(len(diabetes[0])) % 60]
    numbers, classes = diabetes[2], diabetes[2] > 100
    more = {"classes": [False, True]} if learn == "partial_fit" else {}
    for call in (
        lambda: getattr(ForwardOnlyRegressor(**NUMBERS), learn)(X, numbers),
        lambda: getattr(ForwardOnlyClassifier(hidden=(8,), epochs=1), learn)(X, classes, **more),
    ):
        assert "differ by less than float32 keeps of them" in str(_refused(call))
