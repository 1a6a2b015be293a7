"""WebDataset shards: examples as they were put in, a different order in each pass, nothing unpickled."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import forwardonly as fo

pytest.importorskip("webdataset")


def write(path, examples):
    """A shard of examples, each a dict of suffixes and bytes."""
    with tarfile.open(path, "w") as archive:
        for number, example in enumerate(examples):
            for suffix, content in example.items():
                info = tarfile.TarInfo(f"{number:05}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def shapes(tmp_path, digits):
    """Two shards of 100 digits each."""
    for shard in range(2):
        part = range(100 * shard, 100 * shard + 100)
        labels = digits.train.labels
        write(
            tmp_path / f"digits-{shard:02}.tar",
            [{"png": png(digits.train.images[k, 0].numpy()), "cls": str(int(labels[k])).encode()} for k in part],
        )
    return tmp_path / "digits-{00..01}.tar"


def test_pictures_and_labels_come_as_they_were_put_in(shapes, digits):
    found = list(fo.data.shards(shapes, shape=(1, 8, 8)))
    assert [label for _, label in found] == digits.train.labels[:200].tolist()
    assert torch.equal(torch.stack([image for image, _ in found]), digits.train.images[:200])
    listed = fo.data.shards([shapes.parent / "digits-01.tar", str(shapes.parent / "digits-00.tar")], shape=(1, 8, 8))
    assert [label for _, label in listed][:100] == digits.train.labels[100:200].tolist()
    assert len(list(fo.data.shards(shapes.parent / "digits-*.tar", shape=(1, 8, 8)))) == 200


def test_shuffled_differently_in_each_pass_and_equally_in_each_run(shapes):
    stream = fo.data.shards(shapes, shape=(1, 8, 8), shuffle=64)
    orders = []
    for turn in (0, 1, 0):
        stream.set_epoch(turn)
        orders.append([label for _, label in stream])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_trained_on_also_by_worker_processes(shapes, digits):
    for data in (
        fo.data.shards(shapes, shape=(1, 8, 8), shuffle=50),
        DataLoader(fo.data.shards(shapes, shape=(1, 8, 8)), 20, num_workers=2),
    ):
        net = fo.mlp((1, 8, 8), (32,), rule=fo.rules.Projection(classes=10))
        options = {} if isinstance(data, DataLoader) else {"batch_size": 20}
        fo.fit(net, data, steps=100, **options)
        assert fo.evaluate(net, digits.test).accuracy > 0.8
    assert fo.evaluate(net, fo.data.shards(shapes, shape=(1, 8, 8))).accuracy > 0.8


def test_arrays_and_words(tmp_path):
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    words = ["plus" if row.sum() > 0 else "minus" for row in values]
    write(tmp_path / "a.tar", [{"npy": npy(x), "txt": f"{w}\n".encode()} for x, w in zip(values, words, strict=True)])
    stream = fo.data.shards(tmp_path / "a.tar", target="txt", classes=("minus", "plus"))
    net = fo.mlp((5,), (16,), rule=fo.rules.Projection(classes=2))
    fo.fit(net, stream, steps=60, batch_size=10)
    assert net.class_names == ("minus", "plus") and fo.evaluate(net, stream).accuracy > 0.9


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([{"png": b"none", "cls": b"1"}], "damaged or not an image"),
        ([{"png": png(np.zeros((8, 8), np.uint8))}], "has no 'cls' for a label, but png: give target='...'"),
        ([{"pkl": pickle.dumps([1]), "cls": b"1"}], "neither a picture nor a .npy beside 'cls'"),
        ([{"npy": npy(np.array([{}], object)), "cls": b"1"}], "holds object, not numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(tmp_path, examples, words):
    write(tmp_path / "a.tar", examples)
    net = fo.mlp((1, 8, 8), (8,), rule=fo.rules.Projection(classes=2))
    with pytest.raises(ValueError) as caught:
        fo.fit(net, fo.data.shards(tmp_path / "a.tar", shape=(1, 8, 8)), steps=1)
    assert words in str(caught.value) and "a.tar" in str(caught.value) and "\n" not in str(caught.value)


def test_shards_that_are_none(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    net = fo.mlp((1, 8, 8), (8,), rule=fo.rules.Projection(classes=2))
    with pytest.raises(ValueError, match=r"a\.tar: damaged or not a tar archive"):
        fo.fit(net, fo.data.shards(tmp_path / "a.tar", shape=(1, 8, 8)), steps=1)
    for path in ("pipe:touch /tmp/never", tmp_path / "b.tar", "http://127.0.0.1/a.tar"):
        with pytest.raises(ValueError, match="there is no such shard"):
            fo.data.shards(path)
