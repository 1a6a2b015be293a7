"""Sets of which a part is there, and archives: what is unpacked, found incomplete or damaged, and repaired."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import dataclasses
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from forwardonly import cli
from forwardonly.data import describe, fetch, load, sources, verify
from forwardonly.data.sources import File

from .served import md5, zipped

pytestmark = pytest.mark.usefixtures("no_other_folders")


def test_an_archive_gives_only_the_files_we_know(cifar, server, tmp_path):
    root = tmp_path / "data"
    train, _, test = load("cifar-10", data_dir=root)
    assert (len(train), len(test)) == (100, 20) and train.classes[3] == "c3"
    assert {p.name for p in (root / "cifar-10-batches-py").iterdir()} == {Path(f.path).name for f in cifar.files}
    assert not (tmp_path / "escaped").exists() and {c["status"] for c in verify("cifar-10", root)} == {"ok"}
    assert len(server.asked) == 1


def test_an_archive_put_there_by_hand_is_used(cifar, server, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(server.files["cifar-10-python.tar.gz"])
    assert [c["status"] for c in verify("cifar-10", tmp_path)] == ["ok"]
    assert len(load("cifar-10", data_dir=tmp_path).train) == 100
    assert server.asked == []


def test_a_truncated_archive(cifar, server, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(server.files["cifar-10-python.tar.gz"][:50_000])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz: ") as caught:
        load("cifar-10", data_dir=tmp_path, download=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("cifar-10-batches-py/tmp*"))
    fetch("cifar-10", tmp_path)
    assert {c["status"] for c in verify("cifar-10", tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("*", "0 of 6 training images"),
        ("train/n01/images/*", "3 of 6 training images"),
        ("train/n02/images/n02_1.JPEG", "5 of 6 training images"),
        ("val/images/val_3.JPEG", "3 of 4 test images"),
        ("wnids.txt", "all images but no wnids.txt"),
    ],
)
def test_a_folder_with_a_part_of_the_set_is_incomplete_and_repaired(tiny, server, tmp_path, gone, says, capsys):
    root = tiny.parent
    for path in [p for p in tiny.rglob("*") if p.is_file() and (gone == "*" or p.match(gone))]:
        path.unlink()
    described = describe("tiny-imagenet", root)
    assert (described["found"], described["incomplete"]) == (None, says)
    assert [(c["status"], c["note"]) for c in verify("tiny-imagenet", root)] == [("incomplete", says)]
    with pytest.raises(ValueError, match=f"it is incomplete .{says}"):
        load("tiny-imagenet", data_dir=root, download=False)
    assert cli.main(["data", "verify", "tiny-imagenet", "--data-dir", str(root)]) == 2
    assert f"repair with: forwardonly data fetch tiny-imagenet --data-dir {root}" in " ".join(
        capsys.readouterr().err.split()
    )
    assert cli.main(["data", "list", "tiny-imagenet", "--data-dir", str(root), "--json"]) == 0
    assert says in capsys.readouterr().out
    assert fetch("tiny-imagenet", root) == root
    assert [c["status"] for c in verify("tiny-imagenet", root)] == ["unchecked"]
    assert describe("tiny-imagenet", root)["found"] == str(root)
    train, _, test = load("tiny-imagenet", data_dir=root)
    assert (len(train), len(test)) == (6, 4)
    assert fetch("tiny-imagenet", root) == root and len(server.asked) == 1


def test_the_names_of_classes_may_be_missing_and_fetch_brings_them(tiny, server):
    root = tiny.parent
    (tiny / "words.txt").unlink()
    train, _, test = load("tiny-imagenet", data_dir=root)
    assert train.classes == test.classes == ("n01", "n02") and server.asked == []
    (check,) = verify("tiny-imagenet", root)
    assert check["status"] == "unchecked" and "no words.txt, so classes are named by their numbers" in check["note"]
    fetch("tiny-imagenet", root)
    assert load("tiny-imagenet", data_dir=root).train.classes == ("goldfish", "crane") and len(server.asked) == 1


def test_only_files_of_the_layout_are_unpacked(tiny, server, monkeypatch, tmp_path):
    strange = ("../escaped", "tiny-imagenet-200/../../escaped", "tiny-imagenet-200/run.py")
    data = zipped(tiny, **dict.fromkeys(strange, b"x"))
    server.files["tiny-imagenet-200.zip"] = data
    known = sources.SOURCES["tiny-imagenet"]
    archive = File("tiny-imagenet-200.zip", md5(data), len(data))
    monkeypatch.setitem(sources.SOURCES, "tiny-imagenet", dataclasses.replace(known, archive=archive))
    (tiny / "train/n01/images/n01_0.JPEG").unlink()
    fetch("tiny-imagenet", tiny.parent)
    assert not (tmp_path / "escaped").exists() and not (tiny / "run.py").exists()
    assert (tiny / "train/n01/images/n01_0.JPEG").exists()


def test_a_part_of_the_files_is_incomplete(mnist, cifar, tmp_path):
    fetch("mnist", tmp_path)
    assert describe("mnist", tmp_path)["incomplete"] is None
    (tmp_path / mnist.files[2].path).unlink()
    described = describe("mnist", tmp_path)
    assert (described["found"], described["incomplete"]) == (None, "3 of 4 files")
    assert [c["status"] for c in verify("mnist", tmp_path)] == ["ok", "ok", "missing", "ok"]
    assert describe("cifar-10", tmp_path)["incomplete"] is None  # nothing of it is there
    fetch("mnist", tmp_path)
    assert describe("mnist", tmp_path)["found"] == str(tmp_path)


def test_a_repacked_archive_is_judged_by_its_members(cifar, tiny, server, tmp_path, monkeypatch):
    root = tmp_path / "again"
    root.mkdir()
    with tarfile.open(fileobj=io.BytesIO(server.files["cifar-10-python.tar.gz"])) as opened:
        members = {m.name: opened.extractfile(m).read() for m in opened if m.isreg() and ".." not in m.name}

    def tar(contents):
        with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
            for name, data in contents.items():
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    tar(members)
    (check,) = verify("cifar-10", root)
    assert check["status"] == "ok" and "not the published archive, but its members are right" in check["note"]
    fetch("cifar-10", root)
    assert not any("cifar" in path for path, _ in server.asked)  # nothing to repair
    assert len(load("cifar-10", data_dir=root).train) == 100
    assert {c["status"] for c in verify("cifar-10", root)} == {"ok"}
    for path in (root / "cifar-10-batches-py").iterdir():
        path.unlink()
    name = next(iter(members))
    tar({**members, name: members[name][:-1] + b"?"})
    (check,) = verify("cifar-10", root)
    assert check["status"] == "damaged" and f"{name} in it is not the published file" in check["note"]
    tar({key: value for key, value in members.items() if key != name})
    assert "it has no" in verify("cifar-10", root)[0]["note"]

    (root / "tiny-imagenet-200.zip").write_bytes(zipped(tiny, compression=zipfile.ZIP_DEFLATED))
    (check,) = verify("tiny-imagenet", root)
    assert check["status"] == "unchecked" and "its members are all there" in check["note"]
    assert fetch("tiny-imagenet", root) == root and len(load("tiny-imagenet", data_dir=root).train) == 6
    (root / "tiny-imagenet-200.zip").write_bytes(zipped(tiny, without=["n01_2.JPEG"]))
    (check,) = verify("tiny-imagenet", root)
    assert (check["status"], check["note"]) == ("damaged", "5 of 6 training images")
    (root / "tiny-imagenet-200.zip").write_bytes(b"not a zip")
    assert verify("tiny-imagenet", root)[0]["status"] == "damaged"


def test_verify_has_a_row_for_each_set_and_a_whole_hint(mnist, cifar, tmp_path, capsys):
    words = ["data", "verify", "cifar-10", "mnist", "--data-dir", str(tmp_path / "a b"), "--json"]
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    files = json.loads(out)["files"]
    assert [file["name"] for file in files] == ["cifar-10"] + ["mnist"] * 4
    assert {file["status"] for file in files} == {"missing"}
    assert err.count("\n") == 1 and "and 4 more" in err
    assert err.strip().endswith(f"forwardonly data fetch cifar-10 mnist --data-dir '{tmp_path / 'a b'}'")
