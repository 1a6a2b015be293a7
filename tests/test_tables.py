"""Tables of every kind: columns go by their names, and what cannot be learned is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.data.inputs import Expected
from forwardonly.data.taking import take
from forwardonly.measure import diagnose

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(RNG.normal([0, 3, -2, 9], 1, (90, 4)), columns=["a", "b", "c", "d"])
LABELS = pd.Series(np.where(TABLE.a + TABLE.b - 3 > 0, "yes", "no"))
TURNED = TABLE[["d", "c", "b", "a"]]


def fresh(features=4, classes=2, **options):
    return fo.mlp((features,), [16], rule=fo.rules.Projection(classes=classes), standardise=True, **options)


def refused(call):
    with pytest.raises(ValueError) as told:
        call()
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.fixture(scope="module")
def learned():
    network = fresh()
    fo.fit(network, (TABLE, LABELS), epochs=10)
    return network


def test_columns_in_another_order_are_put_in_the_order_that_was_learned(learned, tmp_path):
    assert learned.feature_names == ("a", "b", "c", "d")
    wanted, said = fo.evaluate(learned, (TABLE, LABELS)).accuracy, learned.predict(TABLE)
    assert wanted > 0.8
    fo.save(learned, tmp_path)
    for network in (learned, fo.load(tmp_path)):
        assert network.feature_names == learned.feature_names
        assert fo.evaluate(network, (TURNED, LABELS)).accuracy == wanted
        assert fo.evaluate(network, [(TURNED[:50], LABELS[:50]), (TABLE[50:], LABELS[50:])]).accuracy == wanted
        assert torch.equal(network.predict(TURNED), said) and torch.equal(network.probabilities(TURNED).argmax(1), said)
        for unnamed in (TABLE.to_numpy().copy(), pd.DataFrame(TABLE.to_numpy())):  # go by their place, as ever
            assert torch.equal(network.predict(unnamed), said)


def test_training_goes_by_the_names_of_columns_too(learned, tmp_path):
    runs = []
    for validation, later in ((TABLE, TABLE), (TURNED, TURNED)):
        network = fresh(seed=1)
        run = fo.fit(network, (TABLE, LABELS), validation=(validation, LABELS), test=(validation, LABELS), epochs=2)
        again = fo.fit(network, (later, LABELS), epochs=1, out=tmp_path / str(len(runs)))
        assert network.feature_names == fo.load(tmp_path / str(len(runs))).feature_names == tuple(TABLE.columns)
        runs.append((run.history[-1]["validation_accuracy"], run.result["test_accuracy"], again.history[-1]["loss"]))
    assert runs[0] == runs[1]


def test_the_first_table_of_a_stream_says_the_order():
    ends, whole = [], (LABELS == "yes").astype(int)
    for other in (TABLE, TURNED):
        network = fresh(seed=1)
        batches = [(TABLE[:45], whole[:45]), (other[45:], whole[45:])]
        run = fo.fit(network, batches, validation=(other, whole), epochs=2)
        assert network.feature_names == tuple(TABLE.columns)
        ends.append((run.history[-1]["loss"], run.history[-1]["validation_accuracy"]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE.rename(columns={"b": "x"}), "the column 'b' is missing and the column 'x' is not one that was learned"),
        (TABLE.assign(e=0.0), "the column 'e' is not one that was learned: the columns must be a, b, c, d."),
        (TABLE[["a", "b", "c"]], "the column 'd' is missing: the columns must be a, b, c, d."),
        (pd.concat([TABLE[["a", "b", "c"]], TABLE[["a"]]], axis=1), "two columns are named 'a'"),
    ],
)
def test_other_columns_are_refused(learned, table, words):
    assert words in refused(lambda: learned.predict(table))
    assert words in refused(lambda: fo.evaluate(learned, (table, LABELS)))
    assert words in refused(lambda: fo.fit(fresh(), (TABLE, LABELS), validation=(table, LABELS), epochs=1))


def test_damaged_names_of_columns_are_refused(learned, tmp_path):
    fo.save(learned, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "feature_names": ["a", "a", "c", "d"]}))
    assert "does not name the columns" in refused(lambda: fo.load(tmp_path))


TIME = 1_700_000_000 + RNG.integers(0, 60, 90)


@pytest.mark.parametrize(
    ("x", "column"),
    [
        (TABLE.assign(time=TIME), "column 'time'"),
        (TABLE.assign(time=TIME * 1_000_000_000), "column 'time'"),
        (TABLE.assign(time=pd.array(TIME, dtype="Int64")), "column 'time'"),
        (np.c_[TABLE, TIME], "column 4"),
        (torch.from_numpy(np.c_[TABLE, TIME]), "column 4"),
        (np.c_[TABLE, TIME].tolist(), "column 4"),
        (np.c_[TABLE, np.where(np.arange(90) == 7, 0, TIME)], "column 4"),  # one row without a time
        (np.c_[TABLE, 1.7e9 + np.arange(90) % 2], "column 4"),
    ],
    ids=["floats", "nanoseconds", "nullable", "array", "tensor", "list", "a zero", "two values"],
)
def test_columns_that_float32_does_not_tell_apart_are_refused(x, column):
    """A Unix time became one number for all rows, without a word."""
    said = refused(lambda: fo.fit(fresh(5), (x, LABELS), epochs=1))
    assert column in said and "differ by less than float32 keeps of them: subtract their mean first" in said


def test_columns_that_float32_tells_apart_are_taken():
    day, noise = 1.7e9 + RNG.uniform(0, 86_400, 90), 1e-16 * RNG.standard_normal(90)
    x = np.c_[day, np.full(90, 1.7e9 + 1), 0.3 + noise, np.round(TABLE.a) + noise, np.arange(90) * 1e12]
    network = fresh(5)
    fo.fit(network, (x, LABELS), epochs=1)
    late = x.copy()
    late[:, 0] = TIME  # a few rows to measure on may lie close together, and so may those of a later training
    fo.evaluate(network, (late, LABELS))
    fo.fit(network, (late, LABELS), epochs=1)


LISTS = pd.Series([[1, 2]] * 90)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (TABLE, np.array([*LABELS[:89], pd.NA], dtype=object), "y of train: row 89 has no label."),
        (TABLE, [*LABELS[:89], pd.NA], "y of train: row 89 has no label."),
        (TABLE[:0], LABELS[:0], "There are no training images."),
        (TABLE[:0], LABELS[:0].to_frame(), "There are no training images."),
        (pd.concat([TABLE, TABLE], axis=1), LABELS, "X of train: two columns are named 'a': give each its own name."),
        (TABLE.astype("Float64").where(TABLE.a.abs() < 2.5), LABELS, "X of train holds NaN or infinite values, first"),
        (TABLE, LISTS, "y of train: the label of row 0 is a list, [1, 2]: a class is one name or number"),
        (TABLE, LISTS.map(tuple).map(lambda pair: {pair: 1}), "y of train: the label of row 0 is a dict"),
    ],
    ids=["NA in an array", "NA in a list", "empty", "empty frame", "twins", "nullable", "lists", "dicts"],
)
def test_bad_tables_are_one_sentence(x, y, words):
    assert refused(lambda: fo.fit(fresh(), (x, y), epochs=1)).startswith(words)


def test_empty_tables_are_nothing_to_measure_on(learned):
    empty = TABLE[:0], LABELS[:0]
    assert refused(lambda: fo.evaluate(learned, empty)) == "There are no images to evaluate on."
    said = refused(lambda: fo.fit(fresh(), (TABLE, LABELS), validation=empty, epochs=1))
    assert said == "There are no validation images."
    numbers = fo.mlp((4,), [8], rule=fo.rules.Projection(classes=1, targets="number"))
    said = refused(lambda: fo.fit(numbers, (TABLE[:0], TABLE.a[:0]), epochs=1))
    assert said == "There are no training images."


def test_targets_with_two_columns_of_one_name():
    expected = Expected((4,), "number", 2)
    twins = pd.concat([TABLE.a, TABLE.a], axis=1)
    assert "y of data: two columns are named 'a'" in refused(lambda: take((TABLE, twins), expected))


PICTURES = fo.data.Images(torch.arange(128, dtype=torch.uint8).reshape(2, 1, 8, 8), torch.arange(2), ("a", "b"))


@pytest.mark.parametrize("size", [0, -1, 1.5])
@pytest.mark.parametrize(
    "call",
    [
        lambda network, size: fo.evaluate(network, PICTURES, batch_size=size),
        lambda network, size: fo.evaluate(network, [(PICTURES.images, PICTURES.labels)], batch_size=size),
        lambda network, size: network.predict(PICTURES, batch_size=size),
        lambda network, size: network.predict(PICTURES.images, batch_size=size),
        lambda network, size: fo.probe(network, PICTURES, batch_size=size),
        lambda network, size: fo.extract(nn.Flatten(), PICTURES, batch_size=size),
        lambda network, size: diagnose(network, PICTURES, batch_size=size),
        lambda network, size: fo.fit(network, PICTURES, batch_size=size, epochs=1),
        lambda network, size: list(PICTURES.in_order(size)),
        lambda network, size: list(PICTURES.inputs_in_order(size)),
    ],
    ids=["evaluate", "a stream", "predict", "a tensor", "probe", "extract", "diagnose", "fit", "in order", "inputs"],
)
def test_a_batch_of_nothing(call, size):
    network = fo.mlp((1, 8, 8), [8], rule=fo.rules.Projection(classes=2))
    words = "must be a whole number, not 1.5" if size == 1.5 else f"must be at least 1, not {size}"
    assert f"batch_size {words}" in refused(lambda: call(network, size))
