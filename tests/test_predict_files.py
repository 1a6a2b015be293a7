"""`forwardonly predict` on real files: formats, folders, patterns, standard input, other sizes and colours."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import forwardonly as fo
from forwardonly import cli


@pytest.fixture
def run(trained_run):
    return trained_run


@pytest.fixture
def photos(tmp_path, digits, monkeypatch):
    """One test image in many formats, sizes and colours, in nested folders."""
    monkeypatch.chdir(tmp_path)
    image = Image.fromarray(digits.test.images[0, 0].numpy())
    large = image.resize((40, 40), Image.Resampling.BOX)
    (tmp_path / "photos/more").mkdir(parents=True)
    image.save("photos/a.png")
    large.convert("RGB").save("photos/b.jpg", quality=95)
    large.convert("RGBA").save("photos/c.webp", lossless=True)
    large.save("photos/more/d.bmp")
    large.convert("P").save("photos/more/e.gif")
    return tmp_path


def predict(capsys, run, *words):
    status = cli.main(["predict", str(run), *words])
    return status, *capsys.readouterr()


def test_formats_sizes_and_colours_give_one_answer_and_say_what_was_changed(run, photos, capsys, digits):
    status, out, _ = predict(capsys, run, "photos", "photos/more", "--json")
    found = json.loads(out)["predictions"]
    assert status == 0 and len(found) == 5
    assert {each["index"] for each in found} == {fo.load(run).predict(digits.test.images[:1]).item()}
    changes = [each["changes"] for each in found]
    assert changes[0] == ""
    assert changes[1] == "resized from 40 x 40 to 8 x 8, colour made grey"
    assert changes[3] == "resized from 40 x 40 to 8 x 8"


def test_patterns(run, photos, capsys):
    _, out, _ = predict(capsys, run, "photos/**/[a-d].*", "--json")
    assert len(json.loads(out)["predictions"]) == 4
    status, out, err = predict(capsys, run, "photos/*.tiff")
    assert (status, out) == (2, "") and "photos/*.tiff: no file fits this pattern" in err


def test_standard_input(run, photos, capsys, monkeypatch):
    content = (photos / "photos/b.jpg").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    _, out, _ = predict(capsys, run, "-", "--json")
    assert json.loads(out)["predictions"][0]["image"] == "standard input"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no image")))
    status, out, err = predict(capsys, run, "-")
    assert (status, out) == (2, "") and "standard input" in err


def test_what_of_a_folder_is_passed_over_is_said(run, photos, capsys):
    folder = photos / "photos"
    names = len(list(fo.data.list_images(folder)))
    (folder / "notes.txt").write_text("no image")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "below").mkdir()
    status, out, err = predict(capsys, run, "photos")
    sentence = (
        "passed over 2 folders below (such as below), 1 linked to nothing or to a folder (such as gone.png), 1 with"
    )
    assert status == 0 and f"photos: {sentence}" in " ".join(err.split()) and "such as notes.txt" in err
    assert "name the folders below to have their images too" in " ".join(err.split()) and ".hidden" not in err
    found = json.loads(predict(capsys, run, "photos", "--json")[1])
    assert len(found["predictions"]) == names and len(found["passed_over"]) == 1 and "csv" not in found
    assert json.loads(predict(capsys, run, "photos/a.png", "--json")[1])["passed_over"] == []
    (photos / "empty").mkdir()
    (photos / "empty/notes.txt").write_text("no image")
    status, out, err = predict(capsys, run, "empty")
    assert (status, out) == (2, "") and "no image in this folder; empty: passed over 1 without the suffix" in err


def test_class_names_that_an_output_has_no_letters_for(tmp_path, digits):
    net = fo.mlp(digits.train.shape, [4], rule=fo.rules.Projection(classes=10))
    net.class_names = ("\u732b", "\u00f6", *"23456789")
    fo.save(net, tmp_path / "net")
    Image.fromarray(digits.test.images[0, 0].numpy()).save(tmp_path / "a.png")

    def run(*words):
        command, environment = (
            [sys.executable, "-m", "forwardonly", *words],
            {**os.environ, "PYTHONIOENCODING": "cp1252"},
        )
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (row,) = csv.DictReader(io.StringIO(run("predict", "net", "a.png", "--csv").decode("utf-8")))
    assert {"\u732b", "\u00f6", "9"} < row.keys()
    assert b"--exact" in run("predict", "--help")  # whose frames are not of that encoding either


def test_csv(run, photos, capsys):
    status, out, _ = predict(capsys, run, "photos", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and [row["image"] for row in rows] == ["photos/a.png", "photos/b.jpg", "photos/c.webp"]
    for row in rows:
        assert row[row["class"]] == row["probability"]
        assert sum(float(row[str(label)]) for label in range(10)) == pytest.approx(1, abs=1e-5)
    assert predict(capsys, run, "photos", "--csv", "--json")[0] == 2


def test_exact_refuses_to_change_anything(run, photos, capsys):
    assert predict(capsys, run, "photos/a.png", "--exact")[0] == 0
    status, out, err = predict(capsys, run, "photos/b.jpg", "--exact")
    assert (status, out) == (2, "") and "resized from 40 x 40 to 8 x 8, colour made grey, which --exact forbids" in err


def test_a_missing_file_among_many_does_not_stop_the_others(run, photos, capsys):
    (photos / "photos/broken.png").write_bytes(b"no image")
    given = ["photos/a.png", "photos/none.png", "photos/broken.png", "photos/b.jpg"]
    status, out, err = predict(capsys, run, *given, "--json")
    found = json.loads(out)
    assert status == 2 and [each["image"] for each in found["predictions"]] == ["photos/a.png", "photos/b.jpg"]
    assert [each["image"] for each in found["failures"]] == ["photos/none.png", "photos/broken.png"]
    assert "not done for 2: photos/none.png: there is no such file; photos/broken.png: damaged or not an image" in err
    alone = json.loads(predict(capsys, run, "photos/a.png", "photos/b.jpg", "--json")[1])["predictions"]
    assert [each["probabilities"] for each in found["predictions"]] == [
        pytest.approx(each["probabilities"], rel=1e-4) for each in alone
    ]
    status, out, _ = predict(capsys, run, *given, "--csv")
    assert status == 2 and out.count("\n") == 3
    status, out, err = predict(capsys, run, "photos/none.png", "photos/broken.png")
    assert (status, out) == (2, "") and "photos/none.png: there is no such file" in err


def test_pictures_that_look_alike_have_one_answer(run, photos, capsys, digits):
    """Turned, transparent and of 16 bits: each is what it looks like, and the changes say what was done."""
    image = Image.fromarray(digits.test.images[0, 0].numpy())
    plain = json.loads(predict(capsys, run, "photos/a.png", "--json")[1])["predictions"][0]
    for hidden in (0, 255):
        clear = Image.merge("LA", [image.point(lambda v, hidden=hidden: hidden if v == 255 else v),
                                   image.point(lambda v: 0 if v == 255 else 255)])  # fmt: skip
        clear.save(f"photos/clear{hidden}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save("photos/turned.png", exif=exif)
    Image.fromarray(np.asarray(image).astype(np.uint16) * 257).save("photos/deep.png")
    names = ["clear0", "clear255", "turned", "deep"]
    status, out, _ = predict(capsys, run, *(f"photos/{name}.png" for name in names), "--exact", "--json")
    found = json.loads(out)["predictions"]
    assert status == 0 and [each["probabilities"] for each in found] == [
        pytest.approx(plain["probabilities"], rel=1e-4) for _ in names
    ]
    assert [each["changes"] for each in found] == ["laid on white"] * 2 + ["turned upright", "16 bits made 8"]


def test_grey_becomes_colour_for_a_network_of_colours(tmp_path):
    Image.new("L", (10, 12), 77).save(tmp_path / "grey.png")
    pixels, changes = fo.data.read_adapted([tmp_path / "grey.png"], (3, 4, 4))
    assert changes == ["resized from 10 x 12 to 4 x 4, grey made RGB"]
    assert pixels.shape == (1, 3, 4, 4) and (pixels == 77).all()


def test_a_file_may_be_named_by_a_word(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (4, 4), 77).save(path)
    for named in ([path], [str(path)], str(path), path):
        assert fo.data.read_adapted(named, (1, 4, 4))[1] == [""] and fo.data.read_images(named).max() == 77
    with pytest.raises(ValueError, match=r"gone\.png: there is no such file"):
        fo.data.read_adapted(str(tmp_path / "gone.png"), (1, 4, 4))


def test_only_to_squares_can_images_be_resized(tmp_path):
    Image.new("L", (10, 12)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="only to squares"):
        fo.data.read_adapted([tmp_path / "a.png"], (1, 4, 6))
