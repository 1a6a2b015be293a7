"""Downloads from a local server: verified, resumed, explained."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import dataclasses
import json
import os
from pathlib import Path

import pytest

from forwardonly import cli
from forwardonly.data import describe, fetch, fetching, load, load_test, sources, table, verify

pytestmark = pytest.mark.usefixtures("no_other_folders")


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


def test_table_and_digits(tmp_path):
    rows = table(tmp_path)
    assert [row["name"] for row in rows] == list(sources.NAMES)
    assert {row["name"] for row in rows if row["found"]} == {"digits"}
    assert fetch("digits") is None and verify("digits") == []
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        describe("mnisr")


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
