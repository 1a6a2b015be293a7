"""Fuzzing: for any content of a file or a run folder, a loader returns what it read or raises one clear ValueError.

The usual run tries a few hundred files; `make fuzz` tries ten thousand of each kind (FORWARDONLY_FUZZ sets the number).
No example may take more than ten seconds of processor time or more than 256 MiB.
"""

import gzip
import io
import json
import os
import pickle
import resource
import struct
import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import forwardonly as fo
from forwardonly.data.formats import read_cifar, read_idx, read_npz
from forwardonly.training.runs import checkpoint

EXAMPLES = int(os.environ.get("FORWARDONLY_FUZZ", 60))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,  # of the clock, which goes on while a busy machine has the process wait
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
MOST_BYTES = 256 << 20
MOST_SECONDS = 10


def answers(load, *arguments):
    """The loader's answer, or None if it refused with one sentence."""
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a checkpoint passed over for an older one
            return load(*arguments)
    except ValueError as refusal:
        assert str(refusal).strip(), "a refusal must say why"
        return None
    finally:
        assert time.process_time() - started < MOST_SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_BYTES


@st.composite
def damaged(draw, sound):
    """Sound bytes with pieces cut, doubled, overwritten, or numbers in them made huge."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0:
                del content[at:]
            case 1:
                del content[at : at + draw(st.integers(1, 64))]
            case 2:
                content[at:at] = draw(st.binary(max_size=32))
            case 3:
                content[at : at + 4] = draw(
                    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
                )
            case 4:
                content[at : at + 8] = struct.pack("<Q", draw(st.integers(0, 2**64 - 1)))
            case _ if content:
                content[at] = draw(st.integers(0, 255))
    return bytes(content)


def idx():
    return struct.pack(">4B3I", 0, 0, 8, 3, 4, 3, 3) + bytes(range(36))


def cifar():
    data = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    return pickle.dumps({b"data": data, b"labels": [0, 1], b"batch_label": b"a"}, protocol=2)


def npz(compressed):
    box = io.BytesIO()
    pack = np.savez_compressed if compressed else np.savez
    pack(box, x=np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4), y=np.arange(10) % 2)
    return box.getvalue()


@fuzz
@given(damaged(idx()) | damaged(gzip.compress(idx(), mtime=0)) | st.binary(max_size=200))
def test_idx(tmp_path, content):
    path = tmp_path / "images"
    path.write_bytes(content)
    read = answers(read_idx, path, 3)
    assert read is None or read.nbytes <= max(1040 * len(content), 1)


@fuzz
@given(damaged(cifar()) | st.binary(max_size=200).map(lambda tail: b"\x80\x02" + tail))
def test_cifar(tmp_path, content):
    path = tmp_path / "batch"
    path.write_bytes(content)
    read = answers(read_cifar, [path], "labels", ("a", "b"), "fuzz")
    assert read is None or read.images.shape[1:] == (3, 32, 32)


@fuzz
@given(damaged(npz(False)) | damaged(npz(True)) | st.binary(max_size=200).map(lambda tail: b"PK\x03\x04" + tail))
def test_npz(tmp_path, content):
    path = tmp_path / "set.npz"
    path.write_bytes(content)
    answers(read_npz, path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run folder of a finished run: file names and bytes."""
    folder = tmp_path_factory.mktemp("sound")
    pixels = torch.arange(20 * 36, dtype=torch.int64).mul(7).remainder(256).to(torch.uint8).view(20, 1, 6, 6)
    images = fo.data.Images(pixels, torch.arange(20) % 4, ("a", "b", "c", "d"), "fuzz")
    net = fo.mlp(images.shape, [6], rule=fo.rules.Hyperspherical(classes=4))
    fo.fit(net, images, epochs=1, batch_size=10, out=folder)
    return {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["../../etc/passwd", "os.system", "backprop", "transformer", 10**12, -1, "__class__", "classes"])
)  # fmt: skip


def branches(inner):
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)


JSON = st.recursive(LEAVES, branches)


@st.composite
def changed(draw, tree):
    """A config with one or a few of its values, at any depth, replaced, dropped or added to."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        node = tree["network"]
        while (inner := [key for key, value in node.items() if isinstance(value, dict)]) and draw(st.booleans()):
            node = node[draw(st.sampled_from(inner))]
        assume(node)
        key = draw(st.sampled_from(sorted(node)) | st.text(max_size=8))
        if draw(st.integers(0, 4)):
            node[key] = draw(JSON)
        else:
            node.pop(key, None)
    return tree


@fuzz
@given(data=st.data())
def test_run_folders(tmp_path, sound, data):
    files = dict(sound)
    kind = data.draw(st.sampled_from(["config bytes", "config tree", "model bytes", "model tensors", "other"]))
    if kind == "config bytes":
        files["config.json"] = data.draw(damaged(files["config.json"]))
    elif kind == "config tree":
        files["config.json"] = json.dumps(data.draw(changed(json.loads(files["config.json"])))).encode()
    elif kind == "model bytes":
        files["model.safetensors"] = data.draw(damaged(files["model.safetensors"]))
    elif kind == "model tensors":
        names = st.sampled_from(["blocks.0.body.1.weight", "prepare.mean", "x"]) | st.text(max_size=8)
        shapes = st.lists(st.integers(0, 5), max_size=3)
        kinds = st.sampled_from([torch.float32, torch.int64, torch.bool, torch.bfloat16])
        tensors = data.draw(st.dictionaries(names, st.tuples(shapes, kinds), max_size=4))
        files["model.safetensors"] = save(
            {name: torch.ones(shape, dtype=kind) for name, (shape, kind) in tensors.items()}
        )
    else:
        files[data.draw(st.sampled_from(sorted(files)))] = data.draw(
            st.binary(max_size=100) | JSON.map(lambda t: json.dumps(t).encode())
        )
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    answers(fo.load, tmp_path)


STATE = {"network": {"w": torch.ones(3, 2)}, "place": {"epoch": 1, "history": [{"loss": [0.5]}]}, "seed": 3}


@fuzz
@given(damaged(checkpoint.pack(STATE)) | JSON.map(lambda tree: save({"0": torch.ones(2)}, {"tree": json.dumps(tree)})))
def test_checkpoints(tmp_path, content):
    import hashlib

    (tmp_path / "checkpoint").mkdir(exist_ok=True)
    for old in (tmp_path / "checkpoint").iterdir():
        old.unlink()
    (tmp_path / "checkpoint" / f"00000001-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    answers(checkpoint.read, tmp_path)
