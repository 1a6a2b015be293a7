"""Folders that are not held in memory give the images, splits and training of `load`; the cache knows its files."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import forwardonly as fo
from forwardonly import cli
from forwardonly.data import large
from forwardonly.data.seeing import as_seen


def draw(folder, count=40, *, size=(40, 30), suffix="png", parts=("",), seed=0):
    """Discs and squares."""
    generator = np.random.default_rng(seed)
    for part in parts:
        for kind in ("disc", "square"):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count // 2):
                image = Image.new("RGB", size, tuple(generator.integers(0, 60, 3).tolist()))
                x, y, side = generator.integers(0, 14), generator.integers(0, 8), generator.integers(8, 14)
                pen = ImageDraw.Draw(image)
                shape = pen.ellipse if kind == "disc" else pen.rectangle
                shape((x, y, x + side, y + side), fill=(200, int(generator.integers(0, 255)), 200))
                image.save(folder / part / kind / f"{number:03}.{suffix}")
    return folder


def whole(split):
    """All images and labels of a split, in its order."""
    batches = list(split.in_order(7))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "val", "test"), ("train", "val")], ids=str)
def test_the_same_images_in_the_same_splits(tmp_path, cache, workers, parts):
    folder = draw(tmp_path / "shapes", parts=parts)
    options = {"image_size": 12, "validation": 6, "seed": 3}
    loaded = fo.data.load(folder, **options)
    streamed = fo.data.stream(folder, cache=cache, workers=workers, **options)
    for ours, theirs in zip(streamed, loaded, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            images, labels = whole(ours)
            assert torch.equal(images, theirs.images) and torch.equal(labels, theirs.labels)
            assert ours.classes == theirs.classes and len(ours) == len(theirs)
    assert loaded.train.notes[0].startswith(streamed.train.notes[0])


def test_it_is_said_how_pictures_are_changed_by_those_looked_at(tmp_path, monkeypatch):
    folder = draw(tmp_path / "shapes")
    said = "20 of 40 pictures are transparent, laid on white"
    for path in sorted((folder / "disc").iterdir()):
        image = Image.open(path)
        image.putalpha(90)
        image.save(path)
    assert fo.data.stream(folder, image_size=12, workers=0).train.notes == fo.data.load(folder).train.notes
    assert said in fo.data.stream(folder, image_size=12, workers=0).train.notes
    monkeypatch.setattr(large, "LOOKED_AT", 8)
    notes = fo.data.stream(folder, image_size=12, workers=0).train.notes
    assert "4 of the 8 pictures looked at are transparent, laid on white" in notes


def test_the_cache_is_read_again_and_made_anew_for_other_files(tmp_path, monkeypatch):
    folder = draw(tmp_path / "shapes")
    fo.data.stream(folder, image_size=12, cache=True, workers=0)
    (cached,) = tmp_path.glob(".shapes-*.npy")
    made = cached.stat().st_mtime_ns
    again = fo.data.stream(folder, image_size=12, validation=4, seed=9, cache=True, workers=0)
    assert cached.stat().st_mtime_ns == made and len(again.validation) == 4, "one cache for all splits"
    changed = folder / "disc" / "000.png"
    Image.new("RGB", (40, 30), (1, 2, 3)).save(changed)
    images, _ = whole(fo.data.stream(folder, image_size=12, cache=True, workers=0).train)
    assert bool((images == torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None]).flatten(1).all(1).any())
    os.utime(changed, ns=(1, 1))
    fo.data.stream(folder, image_size=12, cache=True, workers=0)
    fo.data.stream(folder, image_size=10, cache=True, workers=0)
    assert len(list(tmp_path.glob(".shapes-*.npy"))) == 4 and not list(tmp_path.glob("*.tmp"))
    cached.write_bytes(cached.read_bytes()[:500])
    monkeypatch.setattr(large, "_decoding", lambda _: cached.name.removeprefix(".shapes-").removesuffix(".npy"))
    found, _ = whole(fo.data.stream(folder, image_size=12, cache=True, workers=0).train)
    assert torch.equal(found, fo.data.load(folder, image_size=12).train.images), "one that was cut short is made anew"


def test_a_cache_that_was_decoded_in_another_way_is_not_read(tmp_path, monkeypatch):
    folder = draw(tmp_path / "shapes")
    fo.data.stream(folder, image_size=12, cache=True, workers=0)
    (old,) = tmp_path.glob(".shapes-*.npy")
    old.write_bytes(old.read_bytes()[:128] + bytes(len(old.read_bytes()) - 128))  # what an older version made of it
    for name, value in (("forwardonly.data.large.DECODING", 99), ("PIL.__version__", "1.2.3")):
        with monkeypatch.context() as patch:
            patch.setattr(name, value)
            found, _ = whole(fo.data.stream(folder, image_size=12, cache=True, workers=0).train)
        assert torch.equal(found, fo.data.load(folder, image_size=12).train.images)


def test_no_room_for_the_cache_is_a_sentence(tmp_path, monkeypatch):
    folder = draw(tmp_path / "shapes")
    monkeypatch.setattr(large.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(ValueError, match="make room, or leave out the cache"):
        fo.data.stream(folder, image_size=12, cache=True, workers=0)
    assert not list(tmp_path.glob("*.npy*"))


def test_trained_as_in_memory_and_resumed_by_the_files_names_and_content(tmp_path):
    folder = draw(tmp_path / "shapes")
    kept = []
    for kind in ("memory", "stream", "cache"):
        read = fo.data.load if kind == "memory" else fo.data.stream
        more = {"cache": kind == "cache"} if kind != "memory" else {}
        train, _, test = read(folder, image_size=12, **more)
        net = fo.mlp(train.shape, (16,), rule=fo.rules.Projection(classes=2))
        run = fo.fit(net, train, test=test, epochs=2, precision="fp32", crop=1, out=tmp_path / kind)
        kept.append(
            (torch.cat([each.flatten().double() for each in net.state_dict().values()]), run.result["test_accuracy"])
        )
    assert all(torch.equal(kept[0][0], other) and accuracy == kept[0][1] for other, accuracy in kept)
    train, _, _ = fo.data.stream(folder, image_size=12, workers=0)
    run = fo.fit(net, train, epochs=3, precision="fp32", crop=1, out=tmp_path / "stream", resume=True)
    assert len(run.history) == 3
    copied = copy_with_new_times(folder, tmp_path / "copied")
    train, _, _ = fo.data.stream(copied, image_size=12, workers=0)
    run = fo.fit(net, train, epochs=4, precision="fp32", crop=1, out=tmp_path / "stream", resume=True)
    assert len(run.history) == 4
    change_a_byte(copied / "disc" / "000.png")
    train, _, _ = fo.data.stream(copied, image_size=12, workers=0)
    with pytest.raises(ValueError, match="learned from other images"):
        fo.fit(net, train, epochs=5, precision="fp32", crop=1, out=tmp_path / "stream", resume=True)


def copy_with_new_times(folder, target):
    shutil.copytree(folder, target)
    for file in target.rglob("*.png"):
        os.utime(file, ns=(1, 1))
    return target


def change_a_byte(file):
    """Of the end of the file, which Pillow does not read; size and times stay."""
    before = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("place", [0, 200_000, -1])
def test_of_a_large_file_three_pieces_are_compared(tmp_path, place):
    file = tmp_path / "large.png"
    file.write_bytes(bytes(400_000))
    before = large._content(file)
    content = bytearray(file.read_bytes())
    content[place] = 1
    file.write_bytes(content)
    assert large._content(file) != before


def test_the_command_line_streams_what_does_not_fit_and_caches_if_asked(tmp_path, monkeypatch, capsys):
    folder = draw(tmp_path / "shapes")
    words = ["train", "--data", str(folder), "--image-size", "12", "--hidden", "8", "--epochs", "1", "--json"]
    accuracies = []
    for more in ([], ["--cache"], ["--out", str(tmp_path / "streamed")]):
        if more[:1] == ["--out"]:
            monkeypatch.setattr(large, "SHARE", 0.0)
            monkeypatch.setattr(fo.data, "load", None)
        monkeypatch.chdir(tmp_path)
        assert cli.main([*words, *more]) == 0, capsys.readouterr().err
        accuracies.append(capsys.readouterr().out.partition('"test_accuracy": ')[2].partition(",")[0])
    assert len(set(accuracies)) == 1 and list(tmp_path.glob(".shapes-*.npy"))
    assert cli.main(["train", "--data", "digits", "--cache"]) == 2
    assert "--cache is for folders of images" in capsys.readouterr().err


@pytest.mark.parametrize("why", ["cached", "too large", "in memory"])
def test_a_run_goes_on_with_its_folder_read_as_before(tmp_path, monkeypatch, capsys, why):
    folder, run = draw(tmp_path / "shapes"), tmp_path / "run"
    words = ["train", "--data", str(folder), "--image-size", "12", "--hidden", "8", "--epochs", "1", "--out", str(run)]
    with monkeypatch.context() as smaller:
        if why == "too large":
            smaller.setattr(large, "SHARE", 0.0)
        assert cli.main([*words, *(["--cache"] if why == "cached" else [])]) == 0
    caches = list(tmp_path.glob(".shapes-*.npy"))
    monkeypatch.setattr(large, "SHARE", 0.0 if why == "in memory" else 0.5)
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--out", str(run), "--epochs", "2"]) == 0, capsys.readouterr().err
    noted = json.loads((run / "config.json").read_text())["data"]
    assert (noted["streamed"], noted["cache"]) == (why != "in memory", why == "cached")
    assert list(tmp_path.glob(".shapes-*.npy")) == caches and len(caches) == (why == "cached")
    if why == "cached":  # decoded as they go by, they are the same images
        assert cli.main(["train", "--resume", "--out", str(run), "--epochs", "3", "--no-cache"]) == 0
        assert not json.loads((run / "config.json").read_text())["data"]["cache"]


def test_a_run_that_does_not_say_how_its_folder_was_read_goes_on(tmp_path):
    folder, run = draw(tmp_path / "shapes"), tmp_path / "run"
    words = ["train", "--data", str(folder), "--image-size", "12", "--hidden", "8", "--epochs", "1"]
    assert cli.main([*words, "--cache", "--out", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    del config["data"]["streamed"], config["data"]["cache"]
    (run / "config.json").write_text(json.dumps(config))
    assert cli.main(["train", "--resume", "--out", str(run), "--epochs", "2", "--cache"]) == 0


def test_what_does_not_fit_is_evaluated_as_it_goes_by(tmp_path, monkeypatch, capsys):
    folder, other = draw(tmp_path / "shapes"), draw(tmp_path / "others", seed=1)
    for kind in ("memory", "stream"):
        with monkeypatch.context() as patch:
            if kind == "stream":
                patch.setattr(large, "SHARE", 0.0)
            words = ["--data", str(folder), "--image-size", "12", "--hidden", "8", "--epochs", "2"]
            assert cli.main(["train", *words, "--out", str(tmp_path / kind)]) == 0
    folder.rename(tmp_path / "moved")
    capsys.readouterr()

    def evaluated(run, data):
        assert cli.main(["evaluate", str(tmp_path / run), "--data", str(data), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    loaded = evaluated("memory", other)
    with monkeypatch.context() as patch:
        patch.setattr(large, "SHARE", 0.0)
        patch.setattr(fo.data, "load_test", None)
        streamed = evaluated("stream", other)
        held = evaluated("stream", tmp_path / "moved")
    same = ("test_accuracy", "block_accuracy", "confusion", "images", "whole", "data_notes")
    assert all(loaded[name] == streamed[name] for name in same) and streamed["images"] == 40
    assert (held["images"], held["whole"]) == (8, False), "not those that it has learned from"
    result = json.loads((tmp_path / "stream" / "result.json").read_text())
    assert held["test_accuracy"] == result["test_accuracy"]


def test_a_home_folder_may_be_larger_than_memory(tmp_path, monkeypatch):
    draw(tmp_path / "shapes")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not fo.data.larger_than_memory("~/shapes", 12)
    monkeypatch.setattr(large, "SHARE", 0.0)
    assert fo.data.larger_than_memory("~/shapes", 12) and not fo.data.larger_than_memory("~/shapes", None)


def test_mistakes_are_found_before_training(tmp_path):
    folder = draw(tmp_path / "shapes")
    Image.new("RGB", (20, 20)).save(folder / "disc" / "odd.png")
    with pytest.raises(ValueError, match=r"odd\.png: it is 20 x 20 pixels, others are 40 x 30: .* give --image-size N"):
        fo.data.stream(folder)
    (folder / "disc" / "odd.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"odd\.png: damaged or not an image"):
        fo.data.stream(folder, image_size=12)
    with pytest.raises(ValueError, match="is not a folder of images"):
        fo.data.stream(tmp_path / "nowhere", image_size=12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": "20"}, "image_size must be a whole number, not '20'"),
        ({"image_size": 0}, "image_size must be at least 1, not 0"),
        ({"validation": "5"}, "validation must be a whole number, not '5'"),
        ({"seed": 0.5}, "seed must be a whole number, not 0.5"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"folder": 5}, "folder must be a path, not 5"),
    ],
)
def test_options_of_another_kind_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        fo.data.stream(**{"folder": draw(tmp_path / "shapes"), "image_size": 12, "workers": 0, **options})


def test_a_damaged_picture_is_named_where_it_is_reached(tmp_path):
    folder = draw(tmp_path / "shapes", count=200)
    train, _, _ = fo.data.stream(folder, image_size=12, workers=1)
    victim = train.data.root / str(train.data.files[3])
    victim.write_bytes(victim.read_bytes()[:60])
    net = fo.mlp(train.shape, (8,), rule=fo.rules.Projection(classes=2))
    with pytest.raises(ValueError, match=victim.name):
        fo.fit(net, train, epochs=1)


@pytest.mark.parametrize("turned", [1, 6])
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path, turned):
    """Smooth shapes: what half-size decoding loses is far below what a person or a network sees."""
    x, y = np.meshgrid(np.linspace(0, 6, 400), np.linspace(0, 5, 320))
    pixels = np.stack([127 + 120 * np.sin(x + phase) * np.cos(y - phase) for phase in (0, 1, 2)], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        small = as_seen(image, 64)
    with Image.open(tmp_path / "a.jpg") as image:
        full = as_seen(image)
    assert small.image.size == tuple(side // 4 for side in full.image.size)
    assert small.size == full.size == full.image.size == ((400, 320) if turned == 1 else (320, 400))
    difference = np.asarray(small.image.resize((64, 64))).astype(int) - np.asarray(full.image.resize((64, 64)))
    assert np.abs(difference).max() <= 6 and np.abs(difference).mean() < 1
    read = fo.data.read_images([tmp_path / "a.jpg"], image_size=64)
    assert torch.equal(read, fo.data.read_adapted([tmp_path / "a.jpg"], (3, 64, 64))[0]), (
        "training and predicting alike"
    )


def test_decoding_is_measured_beside_a_plain_loop(tmp_path, capsys):
    folder = draw(tmp_path / "shapes", count=24)
    words = ["bench", "data", "--data", str(folder), "--image-size", "12", "--batch", "8", "--repeats", "7", "--json"]
    assert cli.main([*words, "--readers", "0"]) == 0
    found = capsys.readouterr().out
    assert '"decoding_ratio"' in found and '"cached_ratio"' in found and '"Pillow, DataLoader"' in found
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]  # no cache is left beside it


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_images_that_a_streamed_run_learned_from_are_left_out_where_they_fit_into_memory(tmp_path, capsys, command):
    folder, run = draw(tmp_path / "shapes"), tmp_path / "run"
    words = ["train", "--data", str(folder), "--image-size", "12", "--hidden", "8", "--epochs", "1", "--cache"]
    assert cli.main([*words, "--out", str(run)]) == 0
    counts = []
    for where in ("shapes", "moved", "copied"):
        folder = copy_with_new_times(folder, tmp_path / where) if where == "copied" else folder.rename(tmp_path / where)
        capsys.readouterr()
        assert cli.main([command, str(run), "--data", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        counts.append((found["images"], found["whole"]))
    assert counts[0] == counts[1] == counts[2] and not counts[1][1]
