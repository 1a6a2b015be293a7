"""Data of any origin become the same tensors, and what cannot be data is refused in one sentence."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import forwardonly as fo
from forwardonly.data.indexed import Indexed
from forwardonly.data.inputs import Expected
from forwardonly.data.streams import Passing
from forwardonly.data.taking import take
from forwardonly.targets import IGNORED

TABLE = Expected((3,), "class", 3)
PICTURES = Expected((1, 4, 4), "class", 3)


def rows(count=6):
    return torch.arange(count * 3, dtype=torch.float32).view(count, 3)


def said(data, expected, **options):
    with pytest.raises(ValueError) as caught:
        found = take(data, expected, **options)
        if not isinstance(found, fo.data.Images):
            if isinstance(found, Passing):
                found.open(4)
            list(found.in_order(4))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "x",
    [
        rows(),
        rows().numpy(),
        rows().numpy().astype(np.float64),
        rows().numpy().astype(np.int32),
        pd.DataFrame(rows().numpy(), columns=["a", "b", "c"]),
        rows().tolist(),
        rows().double(),
        rows().numpy()[::-1][::-1],
    ],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
@pytest.mark.parametrize(
    "y",
    [
        ["no", "yes", "no", "maybe", "yes", "no"],
        np.array(["no", "yes", "no", "maybe", "yes", "no"]),
        np.array([b"no", b"yes", b"no", b"maybe", b"yes", b"no"]),
        pd.Series(["no", "yes", "no", "maybe", "yes", "no"]),
        pd.Series(["no", "yes", "no", "maybe", "yes", "no"], dtype="category"),
        pd.DataFrame({"answer": ["no", "yes", "no", "maybe", "yes", "no"]}),
    ],
    ids=lambda y: f"{type(y).__name__} {getattr(y, 'dtype', '')}",
)
def test_arrays_and_tables(x, y):
    found = take((x, y), TABLE)
    assert isinstance(found, fo.data.Images) and found.images.dtype == torch.float32
    assert torch.equal(found.images, rows()) and found.classes == ("maybe", "no", "yes")
    assert found.labels.tolist() == [1, 2, 1, 0, 2, 1]


def test_tensors_of_the_right_type_are_not_copied():
    x, y = rows(), torch.tensor([0, 1, 2, 0, 1, 2])
    found = take((x, y), TABLE)
    assert found.images.data_ptr() == x.data_ptr() and found.labels.data_ptr() == y.data_ptr()
    array = np.random.default_rng(0).integers(0, 256, (6, 1, 4, 4), dtype=np.uint8)
    assert take((array, y), PICTURES).images.data_ptr() == array.ctypes.data
    loader = DataLoader(TensorDataset(x, y), 3)
    stream = take([(x[:3], y[:3]), (x[3:], y[3:])], TABLE)
    stream.open(99)
    assert stream.next().inputs.data_ptr() == x.data_ptr(), "batches go by as they are"
    assert isinstance(take(loader, TABLE), Passing)


@pytest.mark.parametrize(
    ("y", "names", "classes", "indices"),
    [
        ([0, 2, 1, 0, 0, 1], None, ("0", "1", "2"), [0, 2, 1, 0, 0, 1]),
        ([0, 2, 2, 0, 0, 0], None, ("0", "1", "2"), [0, 2, 2, 0, 0, 0]),
        ([7, 30, 7, -1, 30, 7], None, ("-1", "7", "30"), [1, 2, 1, 0, 2, 1]),
        ([7.0, 30.0, 7.0, -1.0, 30.0, 7.0], None, ("-1", "7", "30"), [1, 2, 1, 0, 2, 1]),
        ([True, False, True, True, False, True], None, ("False", "True"), [1, 0, 1, 1, 0, 1]),
        ([0, 2, 1, 0, 0, 1], ("a", "b", "c"), ("a", "b", "c"), [0, 2, 1, 0, 0, 1]),
        ([30, 7, 7, 30, 7, 7], (30, 7), ("30", "7"), [0, 1, 1, 0, 1, 1]),
        (["b", "a", "b", "b", "a", "b"], ("b", "a", "z"), ("b", "a", "z"), [0, 1, 0, 0, 1, 0]),
    ],
    ids=str,
)
def test_labels_of_any_type_keep_their_names(y, names, classes, indices):
    for given in (y, np.array(y), *([torch.tensor(y)] if not isinstance(y[0], str) else [])):
        found = take((rows(), given), TABLE, classes=names)
        assert (found.classes, found.labels.tolist()) == (classes, indices)


def test_whole_numbers_are_indices_where_no_class_has_a_number_for_a_name():
    named = TABLE._replace(names=("cat", "dog", "owl"))
    assert take((rows(), [0, 2, 1, 0, 0, 1]), named).classes == ("cat", "dog", "owl")
    numbered = TABLE._replace(names=("7", "8", "9"))
    assert take((rows(), [7, 9, 9, 7, 7, 9]), numbered).classes == ("7", "9")


@pytest.mark.parametrize(
    ("x", "y", "expected", "words"),
    [
        (rows(), torch.zeros(5, dtype=torch.int64), TABLE, "6 inputs but 5 targets"),
        (rows(), torch.rand(6), TABLE, "does not fit a network that learns classes of 3 outputs"),
        (rows(), torch.zeros(6, 3), TABLE, r"several labels at once are a column each, 0 or 1 (targets='labels')"),
        (rows(), ["a", "b", None, "a", "b", "c"], TABLE, "row 2 has no label"),
        (rows(), pd.Series(["a", "b", None, "a", "b", "c"]), TABLE, "row 2 has no label"),
        (rows(), list("abcdef"), TABLE, "6 different labels, such as a, b, c, but the network has 3 classes"),
        (rows() / 0, torch.zeros(6, dtype=torch.int64), TABLE, "NaN or infinite values, first in example 0"),
        (torch.zeros(6, 4), torch.zeros(6), TABLE, "takes examples of (3,), not (4,)"),
        (pd.DataFrame({"a": [1.0], "colour": ["red"], "c": [2.0]}), ["x"], TABLE, "column 'colour' holds "),
        ([[1.0, 2, 3], [1.0, 2]], [0, 1], TABLE, "its examples have different lengths"),
        (np.array([["a", "b", "c"]]), [0], TABLE, "must be numbers, not <U1 such as "),
        (rows(), torch.zeros(6, 2), TABLE._replace(kind="number"), "learns numbers of 3 outputs"),
        (rows(), torch.full((6, 3), torch.nan), TABLE._replace(kind="number"), "first in example 0"),
        (rows(), torch.full((6, 3), 2.0), TABLE._replace(kind="labels"), "such as 2.0 does not fit"),
        (rows(), [["a"]] * 6, TABLE._replace(kind="labels"), "such as 'a' does not fit"),
        (torch.zeros(6, 1, 4, 5), torch.zeros(6), PICTURES, "takes examples of (1, 4, 4), not (1, 4, 5)"),
        (np.full((6, 4, 4), 300), np.zeros(6), PICTURES, "from 300 to 300, they must be 0 to 255"),
        (torch.zeros(6, 5).long(), torch.full((6, 5), 9), Expected((5,), "token", 4, tokens=True), "token 9 is out of"),
        (torch.zeros(6, 5), torch.zeros(6, 5).long(), Expected((5,), "token", 4, tokens=True), "takes token ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_do_not_fit(x, y, expected, words):
    assert words in said((x, y), expected)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "not NoneType"),
        (3, "must be (X, y), a Dataset, a DataLoader, or an iterable of batches (inputs, targets), not int"),
        ("photos", "what fo.data.load or fo.data.shards makes of it, not 'photos'"),
        (torch.zeros(6, 3), "(X, y): the inputs and, beside them, the targets, not Tensor"),
        (pd.DataFrame({"a": [1]}), "(X, y): the inputs and, beside them, the targets, not DataFrame"),
        (fo.data.Splits(None, None, None), "one of the splits, such as splits.train"),
        ({"train": [1]}, "one of its parts, such as data['train']"),
        ([], "gave nothing: there is no batch in it"),
        (iter([]), "gave nothing: there is no batch in it"),
        ([(rows(), torch.zeros(5).long())], "data, batch 0 has 6 inputs but 5 targets"),
        ([(rows(0), torch.zeros(0).long())], "batch 0 is empty"),
        ([(rows(), torch.zeros(6).long()), (rows() / 0, torch.zeros(6).long())], "batch 1 holds NaN"),
        ([(rows(), torch.zeros(6).long()), (rows(), torch.full((6,), 3))], "batch 1: the label '3' is not among"),
        (
            [(rows(), list("aabbaa"))],
            "the label 'a' is not among the classes 0, 1, 2: say all of them by classes=(...)",
        ),
        ([{"a": rows(), "b": rows(), "label": torch.zeros(6).long()}], "has the columns a, b, label, and the network"),
        ([{"a": rows(), "label": torch.zeros(6).long(), "y": torch.zeros(6).long()}], "several may be the target"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_data(data, words):
    assert words in said(data, TABLE)


def test_two_names_for_one_class_are_refused():
    assert "named 'a'" in said((rows(), list("abcabc")), TABLE, classes=("a", "a"))
    assert "no column 'c'" in said([{"a": rows()}], TABLE, columns=("a", "c"))
    images = fo.data.Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"), "mine")
    assert "make its rule with targets='class'" in said(images, PICTURES._replace(kind="number"))


class Pairs(Dataset):
    classes = ("a", "b", "c")

    def __init__(self, count=6):
        self.x, self.y = rows(count), [index % 3 for index in range(count)]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(3), 1


def test_data_sets_and_loaders_are_known_by_what_they_are():
    assert isinstance(take(Pairs(), TABLE), Indexed) and take(Pairs(), TABLE).classes == ("a", "b", "c")
    assert isinstance(take([(torch.zeros(3), 1), (torch.ones(3), 2)], TABLE), Indexed)
    assert isinstance(take(TensorDataset(rows(), torch.arange(6) % 3), TABLE), fo.data.Images)
    assert take(DataLoader(Pairs(), 4), TABLE).classes == ("a", "b", "c")
    for stream, batch, length in (
        (DataLoader(Pairs(), 4), None, 2),
        (DataLoader(Endless(), 4), None, None),
        (Endless(), 5, None),
        ((pair for pair in Pairs()), 5, None),
        (lambda: iter(Pairs()), 5, None),
        (({"x": torch.zeros(3), "label": 1} for _ in range(9)), 5, None),
    ):
        found = take(stream, TABLE)
        found.open(5)
        assert (found.batch_size, found.length) == (batch, length)
        assert found.next().inputs.shape[1:] == (3,)
    assert len(list(take(Pairs(), TABLE).in_order(4))) == 2


def test_several_inputs_and_masks():
    several = Expected((), "class", 3)
    mask = rows() > 3
    for x in ({"table": rows(), "mask": mask}, (rows(), mask)):
        for data in ((x, torch.arange(6) % 3), [(x, torch.arange(6) % 3)]):
            found = take(data, several)
            if isinstance(found, Passing):
                found.open(6)
            (inputs, labels) = next(found.in_order(6))
            parts = list(inputs.values()) if isinstance(inputs, dict) else inputs
            assert torch.equal(parts[0], rows()) and parts[1].dtype == torch.bool and labels.tolist() == [0, 1, 2] * 2
    assert "its parts have 5, 6 examples" in said(({"a": rows(), "b": rows(5)}, torch.arange(6) % 3), several)


def test_tokens_that_are_left_out_and_text_without_targets():
    text = Expected((5,), "token", 4, tokens=True)
    ids = torch.arange(12).view(2, 6) % 4
    found = take(ids, text)
    assert torch.equal(found.images, ids[:, :-1]) and torch.equal(found.labels, ids[:, 1:])
    targets = ids.clone()
    targets[0, 0] = IGNORED
    assert take((ids, targets), text).labels[0, 0] == IGNORED
    stream = take([ids], text)
    stream.open(2)
    assert torch.equal(stream.next().targets, ids[:, 1:])


def test_pictures_of_pillow_are_read_as_people_see_them():
    from PIL import Image

    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    found = next(take([(grey, 0), (clear, 1)], PICTURES).in_order(2))
    assert found[0].dtype == torch.uint8 and found[0][0].flatten().tolist() == list(range(16))
    assert bool((found[0][1] == 255).all()), "what is transparent lies on white"
    assert "has 5 x 4 pixels, the network takes 4 x 4" in said([(grey.resize((5, 4)), 0)], PICTURES)


def test_hugging_face_data_sets_say_their_columns_and_classes():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=list("abc"))}
    )
    mapped = datasets.Dataset.from_dict({"x": rows().tolist(), "label": [0, 1, 2] * 2}, features=features)
    for data in (mapped, mapped.to_iterable_dataset()):
        found = take(data, TABLE)
        assert found.classes == ("a", "b", "c")
        if isinstance(found, Passing):
            found.open(6)
        inputs, labels = next(found.in_order(6))
        assert torch.equal(inputs, rows()) and labels.tolist() == [0, 1, 2] * 2
    renamed = mapped.rename_column("label", "kind").add_column("id", list("uvwxyz"))
    inputs, labels = next(take(renamed, TABLE, columns=("x", "kind")).in_order(6))
    assert labels.tolist() == [0, 1, 2] * 2
    assert "say by columns=" in said(renamed, TABLE)


def test_pandas_is_not_imported_to_find_out():
    code = (
        "import sys, torch, forwardonly as fo\n"
        "net = fo.mlp((3,), (4,), rule=fo.rules.Projection(classes=2))\n"
        "fo.fit(net, (torch.randn(20, 3), [0, 1] * 10), epochs=1)\n"
        "assert not {'pandas', 'datasets', 'webdataset'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pass_after_a_refused_batch_is_a_new_one():
    y = torch.arange(6) % 3
    stream = take([(rows()[:3], y[:3]), (rows()[3:], y[3:4])], TABLE)
    sentences = []
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            list(stream.in_order(3))
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
