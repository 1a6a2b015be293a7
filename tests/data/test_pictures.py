"""Folders of images, Tiny ImageNet, and files to predict."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import dataclasses
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from forwardonly.data import load, load_test, read_images, sources
from forwardonly.data.pictures import look


def fill(root, picture, classes=("cat", "ant"), count=5, suffix="png", **options):
    for name in classes:
        for n in range(count):
            picture(root / name / f"{n}.{suffix}", **options)
    return root


def test_one_folder_is_split_the_same_way_each_time(tmp_path, picture):
    root = fill(tmp_path / "pets", picture)
    (root / "cat" / ".hidden.png").write_bytes(b"")
    (root / "cat" / "notes.txt").write_text("not an image")
    train, validation, test = load(root)
    assert train.classes == ("ant", "cat") and validation is None and train.name == "pets"
    assert (len(train), len(test)) == (8, 2) and test.labels.tolist() == [0, 1]
    assert torch.equal(test.images, load(str(root), seed=3).test.images)


def test_train_val_and_test_folders(tmp_path, picture):
    for part, count in (("train", 5), ("val", 2)):
        fill(tmp_path / part, picture, count=count)
    train, validation, test = load(tmp_path, validation=2)
    assert validation is not None
    assert (len(train), len(validation), len(test)) == (8, 2, 4)
    fill(tmp_path / "test", picture, count=3)
    train, validation, test = load(tmp_path)
    assert validation is not None
    assert (len(train), len(validation), len(test)) == (10, 4, 6)
    fill(tmp_path / "test", picture, classes=("dog",))
    with pytest.raises(ValueError, match="the class 'dog' has no directory in"):
        load(tmp_path)


def test_pixels_come_out_as_they_are(tmp_path, picture):
    fill(tmp_path, picture, mode="RGB", size=(6, 4))
    train, _, _ = load(tmp_path)
    assert train.shape == (3, 4, 6)
    path = tmp_path / "cat" / "0.png"
    expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(read_images([path])[0].numpy(), expected)
    assert read_images([path], shape=(1, 4, 6)).shape == (1, 1, 4, 6)


def test_where_the_shorter_side_is_right_pixels_are_cut_not_resampled(tmp_path, picture):
    wide = picture(tmp_path / "wide.png", mode="RGB", size=(9, 6))
    high = picture(tmp_path / "high.png", mode="RGB", size=(6, 11))
    pixels = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in (wide, high)]
    expected = [pixels[0][:, :, 1:7], pixels[1][:, 2:8]]  # an odd pixel that is left over stays behind
    assert np.array_equal(read_images([wide, high], image_size=6).numpy(), np.stack(expected))


def test_a_single_picture_in_colour_makes_all_coloured(tmp_path, picture):
    for place in range(3):
        files = [picture(tmp_path / f"{n}.png", mode="RGB" if n == place else "L", size=(6, 6)) for n in range(3)]
        assert read_images(files, image_size=4).shape == (3, 3, 4, 4)
    assert read_images([files[0]], image_size=4).shape == (1, 1, 4, 4)


def test_grey_and_coloured_together_are_coloured(tmp_path, picture):
    fill(tmp_path, picture)
    assert load(tmp_path).train.shape == (1, 8, 8)
    picture(tmp_path / "cat" / "colour.bmp", mode="RGB")
    assert load(tmp_path).train.shape == (3, 8, 8)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(path)
    assert read_images([path]).flatten().tolist() == [0, 1, 255]


def test_too_few_to_keep_some_for_testing_is_one_clear_sentence(tmp_path, picture):
    fill(tmp_path / "a", picture, count=1)
    with pytest.raises(ValueError, match="a: 2 images in 2 classes are too few to keep a fifth for testing"):
        load(tmp_path / "a")


def test_a_cameras_two_jpegs_in_one_file_are_a_picture(tmp_path, picture):
    fill(tmp_path / "a", picture, count=5, mode="RGB", size=(40, 30))
    colours = np.arange(40 * 30 * 3, dtype=np.uint8).reshape(30, 40, 3)
    Image.fromarray(colours).save(tmp_path / "a" / "cat" / "x.mpo", "MPO", save_all=True)
    train, _, test = load(tmp_path / "a", image_size=8)
    assert len(train) + len(test) == 11 and "passed over" not in train.notes[0]


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG"])
@pytest.mark.parametrize("mark", [1, 6])
def test_the_size_that_is_told_is_that_in_the_file(tmp_path, kind, mark):
    exif = Image.Exif()
    exif[0x0112] = mark
    Image.new("RGB", (400, 300)).save(tmp_path / "x", kind, exif=exif)
    assert look(tmp_path / "x", side=12).size == ((400, 300) if mark == 1 else (300, 400))


def test_lab_has_colours(tmp_path):
    Image.new("LAB", (8, 8), (150, 200, 90)).save(tmp_path / "x.tif")
    assert read_images(tmp_path / "x.tif").shape == (1, 3, 8, 8)
    for depth in (8, 16):  # grey with opacity, which Pillow names LA
        (tmp_path / "x.png").write_bytes(png_of(8, 8, depth, kind=4, rows=(b"\0" + b"\xff" * (2 * depth)) * 8))
        assert read_images(tmp_path / "x.png").shape == (1, 1, 8, 8)


def test_sizes_must_agree_or_be_made_to(tmp_path, picture):
    fill(tmp_path, picture)
    odd = picture(tmp_path / "cat" / "odd.png", size=(20, 10))
    with pytest.raises(ValueError, match=r"odd\.png: it is 20 x 10 pixels, others are 8 x 8: .*--image-size") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert load(tmp_path, image_size=5).train.shape == (1, 5, 5)
    centre = np.zeros((10, 30), np.uint8)
    centre[:, 10:20] = 200
    Image.fromarray(centre).save(odd)
    assert read_images([odd], image_size=10).unique().tolist() == [200]
    with pytest.raises(ValueError, match="30 x 10 pixels, it must be 8 x 8"):
        read_images([odd], shape=(1, 8, 8))
    with pytest.raises(ValueError, match="at least 1 pixel"):
        read_images([odd], image_size=0)
    with pytest.raises(ValueError, match="1 channel or 3"):
        read_images([odd], shape=(2, 8, 8))
    with pytest.raises(ValueError, match="no image files"):
        read_images([])


def test_folders_without_what_is_needed(tmp_path, picture):
    with pytest.raises(ValueError, match="there are no class directories"):
        load(tmp_path)
    fill(tmp_path, picture, classes=("cat",))
    with pytest.raises(ValueError, match="at least two classes"):
        load(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(ValueError, match="the class 'ant' has no examples"):
        load(tmp_path)
    picture(tmp_path / "ant" / "one.png")
    assert load(tmp_path).train.labels.bincount().tolist() == [1, 4]


def png_of(width, height, depth=8, kind=0, rows=b""):
    """A PNG whose header claims this size, depth and kind of colours; by default its data are nothing like it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8_000, 8_000), (10_000, 10_000), (60_000, 60_000)])
def test_decompression_bombs_are_refused(tmp_path, picture, size):
    fill(tmp_path, picture)
    (tmp_path / "cat" / "bomb.png").write_bytes(png_of(*size))
    with pytest.raises(ValueError, match=r"bomb\.png: .*(refused|bomb)"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 60, -40])
def test_a_corrupt_image_is_named(tmp_path, picture, keep):
    fill(tmp_path, picture)
    path = tmp_path / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cat/3\.png: damaged or not an image") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_postscript_is_not_run(tmp_path, picture):
    fill(tmp_path, picture)
    (tmp_path / "cat" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"x\.png: damaged or not an image"):
        load(tmp_path)


def seeds():
    import io

    out = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, kind)
        out.append(buffer.getvalue())
    return out


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.sampled_from(seeds()), place=st.floats(0, 1), put=st.binary(max_size=6), cut=st.integers(0, 6))
def test_fuzzed_images(tmp_path, seed, place, put, cut):
    start = int(place * len(seed))
    path = tmp_path / "x.png"
    path.write_bytes(seed[:start] + put + seed[start + cut :])
    try:
        read_images([path], shape=(1, 8, 8))
    except ValueError as error:
        assert "\n" not in str(error)


def tiny_imagenet(picture, root):
    """The set's layout with 2 classes of 3 + 2 images."""
    top = root / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        for n in range(3):
            picture(top / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", mode="RGB", size=(64, 64))
    for n in range(4):
        picture(top / "val" / "images" / f"val_{n}.JPEG", size=(64, 64))
    (top / "wnids.txt").write_text("n02\nn01\n")
    (top / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tcrane\nn03\tother\n")
    lines = [f"val_{n}.JPEG\t{'n02' if n % 2 else 'n01'}\t0\t0\t62\t62\n" for n in range(4)]
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    return top


def test_tiny_imagenet_from_its_folder_and_from_its_zip(tmp_path, picture, monkeypatch):
    small = dataclasses.replace(sources.SOURCES["tiny-imagenet"], train=6, test=4)
    monkeypatch.setitem(sources.SOURCES, "tiny-imagenet", small)
    top = tiny_imagenet(picture, tmp_path / "a")
    train, _, test = load("tiny-imagenet", data_dir=tmp_path / "a")
    assert train.classes == ("goldfish", "crane") and train.shape == (3, 64, 64)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and test.labels.tolist() == [0, 1, 0, 1]
    (tmp_path / "b").mkdir()
    with zipfile.ZipFile(tmp_path / "b" / "tiny-imagenet-200.zip", "w") as archive:
        for path in top.rglob("*"):
            archive.write(path, path.relative_to(tmp_path / "a"))
    zipped = load("tiny-imagenet", data_dir=tmp_path / "b")
    assert torch.equal(zipped.train.images, train.images) and torch.equal(zipped.test.images, test.images)
    assert torch.equal(load_test("tiny-imagenet", data_dir=tmp_path / "a")[0].images, test.images)
    assert torch.equal(load_test("tiny-imagenet", data_dir=tmp_path / "b")[0].images, test.images)
    (top / "words.txt").unlink()
    unnamed = load("tiny-imagenet", data_dir=tmp_path / "a").train
    assert unnamed.classes == ("n01", "n02") and torch.equal(unnamed.images, train.images)
    assert unnamed.notes == (f"{top} has no words.txt, so classes are named by their numbers in WordNet",)
    notes = top / "val" / "val_annotations.txt"
    notes.write_text("../../../secret\tn01\n")
    with pytest.raises(ValueError, match="outside its own folder"):
        load("tiny-imagenet", data_dir=tmp_path / "a")
    notes.write_text("val_0.JPEG\tn09\n")
    with pytest.raises(ValueError, match=r"class 'n09', which wnids.txt does not list"):
        load("tiny-imagenet", data_dir=tmp_path / "a")
