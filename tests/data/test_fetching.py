"""Downloads from a local server: verified, resumed, explained."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from forwardonly import cli
from forwardonly.data import describe, fetch, fetching, load, load_test, sources, table, verify
from forwardonly.data.sources import File

from .conftest import idx_bytes, python2_batch


class Server(http.server.ThreadingHTTPServer):
    """What it offers and how it behaves, which tests change."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges = True
        self.asked: list[tuple[str, int]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.cut` sends that many bytes and hangs up; understands Range."""

    def do_GET(self):
        server = self.server
        assert isinstance(server, Server)
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        server.asked.append((self.path, start))
        data = server.files.get(self.path.strip("/"))
        if data is None:
            self.send_error(404)
            return
        if start > len(data):
            self.send_error(416)
            return
        self.send_response(206 if start and server.ranges else 200)
        if start and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            data = data[start:]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(data if server.cut is None else data[: server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_other_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("FORWARDONLY_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


def md5(data):
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def mnist(server, monkeypatch, rng):
    """MNIST's entry in the table, but small and offered by our server."""
    known = sources.SOURCES["mnist"]
    arrays = (rng.integers(0, 256, (20, 28, 28)), np.arange(20) % 10) * 2
    files = []
    for file, array in zip(known.files, arrays, strict=True):
        data = idx_bytes(array)  # not gzipped in spite of its name, which the reader sees from its bytes
        server.files[Path(file.path).name] = data
        files.append(File(file.path, md5(data), len(data)))
    url = f"http://127.0.0.1:{server.server_port}/"
    known = dataclasses.replace(known, train=20, test=20, url=url, files=tuple(files))
    monkeypatch.setitem(sources.SOURCES, "mnist", known)
    return known


def test_load_fetches_once(mnist, server, tmp_path):
    with pytest.raises(ValueError, match="downloading is off: put train-images") as caught:
        load("mnist", data_dir=tmp_path, download=False)
    assert str(tmp_path / "MNIST/raw") in str(caught.value)
    assert {check["status"] for check in verify("mnist", tmp_path)} == {"missing"}
    assert len(load("mnist", data_dir=tmp_path).train) == 20
    assert len(server.asked) == 4
    load("mnist", data_dir=tmp_path)
    assert fetch("mnist", tmp_path) == tmp_path
    assert len(server.asked) == 4
    assert {check["status"] for check in verify("mnist", tmp_path)} == {"ok"}
    assert describe("mnist", tmp_path)["found"] == str(tmp_path)
    assert sorted(p.name for p in (tmp_path / "MNIST/raw").iterdir()) == sorted(server.files)


def test_where_it_goes(mnist, tmp_path, monkeypatch):
    assert fetch("mnist", progress=False) == tmp_path / "cache" / "forwardonly"
    monkeypatch.setenv("FORWARDONLY_DATA", str(tmp_path / "named"))
    assert fetch("mnist", progress=False) == tmp_path / "cache" / "forwardonly"  # it is there already
    assert fetch("mnist", tmp_path / "mine", progress=False) == tmp_path / "mine"


def test_a_damaged_file_is_found_and_fetched_again(mnist, tmp_path):
    fetch("mnist", tmp_path)
    path = tmp_path / mnist.files[0].path
    path.write_bytes(path.read_bytes()[:-1])
    assert [c["status"] for c in verify("mnist", tmp_path)] == ["damaged", "ok", "ok", "ok"]
    with pytest.raises(ValueError, match="promises"):
        load("mnist", data_dir=tmp_path)
    fetch("mnist", tmp_path)
    assert {c["status"] for c in verify("mnist", tmp_path)} == {"ok"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(mnist, server, tmp_path, ranges):
    server.cut, server.ranges = 1000, ranges
    with pytest.raises(ValueError, match=r"stopped after [\d,]+ bytes: run the same command again") as caught:
        fetch("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    part = tmp_path / (mnist.files[0].path + ".part")
    kept = part.stat().st_size
    assert kept == (3000 if ranges else 1000) and not (tmp_path / mnist.files[0].path).exists()
    server.cut = None
    server.asked.clear()
    fetch("mnist", tmp_path)
    assert server.asked[0][1] == kept and not part.exists()
    assert {c["status"] for c in verify("mnist", tmp_path)} == {"ok"}


def test_a_part_that_is_longer_than_the_file_starts_anew(mnist, tmp_path):
    part = tmp_path / (mnist.files[0].path + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1_000_000))
    fetch("mnist", tmp_path)
    assert {c["status"] for c in verify("mnist", tmp_path)} == {"ok"}


@pytest.mark.parametrize("data", [b"<html>please log in</html>", bytes(10_000_000)])
def test_a_wrong_checksum_keeps_nothing(mnist, server, tmp_path, data):
    server.files[Path(mnist.files[0].path).name] = data
    with pytest.raises(ValueError, match="does not match the published checksum") as caught:
        fetch("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "MNIST").exists()  # and leaves no empty folders


def test_offline_says_what_to_put_where(mnist, server, tmp_path, monkeypatch):
    server.files.clear()
    with pytest.raises(ValueError, match=r"cannot download mnist \(status 404\): put train-images"):
        load("mnist", data_dir=tmp_path)
    gone = dataclasses.replace(mnist, url="http://127.0.0.1:1/")
    monkeypatch.setitem(sources.SOURCES, "mnist", gone)
    with pytest.raises(ValueError, match=r"cannot download mnist \(no connection\): put train-images") as caught:
        load("mnist", data_dir=tmp_path)
    text = str(caught.value)
    assert "\n" not in text and str(tmp_path / "MNIST/raw") in text and "FORWARDONLY_DATA" in text
    with pytest.raises(ValueError, match="cannot download mnist"):
        fetch("mnist", tmp_path / "new/folder")
    assert not any(tmp_path.iterdir())  # no empty folders are left


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(mnist, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="no permission to write"):
        fetch("mnist", tmp_path)


def test_a_file_where_the_folder_should_be(mnist, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="no permission to write"):
        fetch("mnist", tmp_path / "file")


@pytest.fixture
def cifar(server, monkeypatch, rng):
    """CIFAR-10's entry with a small archive, which also holds what it should not."""
    known = sources.SOURCES["cifar-10"]
    buffer = io.BytesIO()
    files = []
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:

        def add(name, data, kind=tarfile.REGTYPE):
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))

        add("../escaped", b"x")
        add("cifar-10-batches-py/other", b"", tarfile.SYMTYPE)
        for file in known.files:
            data = python2_batch(rng.integers(0, 256, (20, 3072), dtype=np.uint8), [n % 10 for n in range(20)])
            if file.path.endswith("meta"):
                data = b"(dp0\nS'label_names'\np1\n(" + b"".join(b"S'c%d'\n" % n for n in range(10)) + b"ls."
            add(file.path, data)
            files.append(File(file.path, md5(data)))
    data = buffer.getvalue()
    server.files["cifar-10-python.tar.gz"] = data
    url = f"http://127.0.0.1:{server.server_port}/"
    archive_file = File("cifar-10-python.tar.gz", md5(data), len(data))
    known = dataclasses.replace(known, train=100, test=20, url=url, files=tuple(files), archive=archive_file)
    monkeypatch.setitem(sources.SOURCES, "cifar-10", known)
    return known


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


def test_table_and_digits(tmp_path):
    rows = table(tmp_path)
    assert [row["name"] for row in rows] == list(sources.NAMES)
    assert {row["name"] for row in rows if row["found"]} == {"digits"}
    assert fetch("digits") is None and verify("digits") == []
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        describe("mnisr")


@pytest.fixture
def tiny(server, monkeypatch, picture, tmp_path):
    """Tiny ImageNet's entry with 2 x 3 + 4 images, and its archive on our server."""
    top = tmp_path / "made" / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        for n in range(3):
            picture(top / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", mode="RGB", size=(64, 64))
    for n in range(4):
        picture(top / "val/images" / f"val_{n}.JPEG", size=(64, 64))
    (top / "wnids.txt").write_text("n02\nn01\n")
    (top / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tcrane\n")
    (top / "val/val_annotations.txt").write_text("".join(f"val_{n}.JPEG\tn01\t0\t0\t62\t62\n" for n in range(4)))
    data = zipped(top)
    server.files["tiny-imagenet-200.zip"] = data
    known = sources.SOURCES["tiny-imagenet"]
    url, archive = f"http://127.0.0.1:{server.server_port}/", File("tiny-imagenet-200.zip", md5(data), len(data))
    monkeypatch.setitem(
        sources.SOURCES, "tiny-imagenet", dataclasses.replace(known, train=6, test=4, url=url, archive=archive)
    )
    return top


def zipped(top, without=(), compression=zipfile.ZIP_STORED, **more):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for path in sorted(top.rglob("*")):
            if path.name not in without:
                archive.write(path, path.relative_to(top.parent))
        for name, content in more.items():
            archive.writestr(name, content)
    return buffer.getvalue()


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


def test_terms_are_said_before_the_download(mnist, cifar, tmp_path, monkeypatch, capsys):
    assert cli.main(["data", "fetch", "mnist", "--data-dir", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert err.count("terms of use of mnist: CC BY-SA") == 1 and "mnist is in" in err
    assert cli.main(["data", "fetch", "mnist", "--data-dir", str(tmp_path)]) == 0
    assert "terms of use of mnist" not in capsys.readouterr().err  # nothing was downloaded
    monkeypatch.setattr(fetching, "_download", lambda *_: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match="terms of use of cifar-10: no licence stated"):
        load("cifar-10", data_dir=tmp_path)


def test_fetch_goes_on_after_a_set_that_cannot_be_had(mnist, cifar, server, tmp_path, capsys):
    del server.files["cifar-10-python.tar.gz"]
    assert cli.main(["data", "fetch", "cifar-10", "mnist", "--data-dir", str(tmp_path), "--json"]) == 2
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert [each["name"] for each in result["fetched"]] == ["mnist"]
    assert [each["name"] for each in result["failed"]] == ["cifar-10"]
    assert "not fetched: cifar-10 (cannot download cifar-10 (status 404)" in err
    assert {c["status"] for c in verify("mnist", tmp_path)} == {"ok"}
    del server.files[Path(mnist.files[0].path).name]
    assert cli.main(["data", "fetch", "cifar-10", "mnist", "--data-dir", str(tmp_path / "other")]) == 2
    err = capsys.readouterr().err
    assert "mnist: cannot download mnist" in err and "not fetched: cifar-10, mnist" in err


@pytest.mark.parametrize("name", ["mnist", "cifar-10"])
def test_the_test_split_loads_alone(mnist, cifar, tmp_path, name):
    whole = load(name, data_dir=tmp_path)
    known = {"mnist": mnist, "cifar-10": cifar}[name]
    training = [file for file in known.files if "train" in file.path or "data_batch" in file.path]
    for file in training:
        (tmp_path / file.path).write_bytes(b"not read")
    test, all_of_it = load_test(name, data_dir=tmp_path)
    assert not all_of_it and test.classes == whole.test.classes
    assert (test.images == whole.test.images).all() and (test.labels == whole.test.labels).all()


def test_mnist_is_found_under_kaggles_names(tmp_path):
    file = next(file for file in sources.SOURCES["mnist"].files if "train-images" in file.path)
    there = tmp_path / file.path.removesuffix(".gz").replace("-idx", ".idx")
    there.parent.mkdir(parents=True, exist_ok=True)
    there.write_bytes(b"")
    assert sources.locate(tmp_path, file) == there
