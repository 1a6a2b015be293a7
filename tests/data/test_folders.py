"""Folders of images: their parts, what lies below class folders, and what is passed over with a word."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import numpy as np
import pytest
from PIL import Image

from forwardonly.data import load, load_test, stream


def fill(root, picture, classes=("a", "b"), count=6):
    for name in classes:
        for n in range(count):
            picture(root / name / f"{n}.png")
    return root


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("middle", ["val", "valid", "validation", "Valid", "dev"])
@pytest.mark.parametrize("test", ["test", "Test", "testing"])
def test_the_parts_by_any_of_their_names(tmp_path, picture, train, middle, test):
    fill(tmp_path / train, picture)
    fill(tmp_path / middle, picture, count=2)
    found = load(tmp_path)
    assert (len(found.train), found.validation, len(found.test)) == (12, None, 4)
    fill(tmp_path / test, picture, count=3)
    found = load(tmp_path)
    assert found.validation is not None
    assert (len(found.train), len(found.validation), len(found.test)) == (12, 4, 6)
    assert found.train.classes == ("a", "b")


def test_train_alone_is_split(tmp_path, picture):
    fill(tmp_path / "train", picture, count=5)
    found = load(tmp_path)
    assert (len(found.train), found.validation, len(found.test)) == (8, None, 2) and found.train.classes == ("a", "b")


def test_classes_may_be_named_as_parts_are(tmp_path, picture):
    fill(tmp_path, picture, classes=("train", "plane", "test"), count=5)
    assert load(tmp_path).train.classes == ("plane", "test", "train")


def test_folders_beside_train_that_are_no_part(tmp_path, picture):
    fill(tmp_path / "train", picture)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.txt").write_text("1 2 3 4")
    assert len(load(tmp_path).train) + len(load(tmp_path).test) == 12
    fill(tmp_path / "extra", picture)
    with pytest.raises(ValueError, match="extra has images but is neither train, val nor test: rename it"):
        load(tmp_path)


def test_parts_that_cannot_be_told(tmp_path, picture):
    fill(tmp_path / "val", picture)
    fill(tmp_path / "test", picture)
    with pytest.raises(ValueError, match="test: there is no train beside it, a folder of images has"):
        load(tmp_path)
    fill(tmp_path / "train", picture)
    fill(tmp_path / "valid", picture)
    with pytest.raises(ValueError, match=r"val and .*valid are both for val: keep one"):
        load(tmp_path)
    fill(tmp_path / "years" / "2023", picture)
    fill(tmp_path / "years" / "2024", picture)
    with pytest.raises(ValueError, match=r"each of its folders holds a, b, so these may be the classes and 2023, 2024"):
        load(tmp_path / "years")
    (tmp_path / "flat" / "train").mkdir(parents=True)
    picture(tmp_path / "flat" / "test" / "1.png")
    fill(tmp_path / "flat" / "train", picture)
    with pytest.raises(ValueError, match="flat/test: there are no class directories"):
        load(tmp_path / "flat")


def test_images_below_class_folders_belong_to_them(tmp_path, picture):
    root = fill(tmp_path / "f", picture)
    for n in range(4):
        picture(root / "a" / "more" / "still" / f"{n}.png")
    found = load(root)
    assert (found.train.labels.bincount() + found.test.labels.bincount()).tolist() == [10, 6]
    assert found.train.notes == ("f: 16 images in 2 classes, 4 of them in folders below their class's",)


def test_a_folder_to_measure_on_is_read_as_one_to_learn_from(tmp_path, picture):
    """Classes named as parts are, images below class folders, and what a zip of macOS leaves."""
    root = fill(tmp_path / "f", picture, classes=("train", "plane", "test"), count=5)
    picture(root / "plane" / "more" / "5.png")
    (root / "__MACOSX").mkdir()
    for count in (16, 4):  # of four, too few are left to hold out a test part
        test, whole = load_test(root)
        assert (len(test), whole, test.classes) == (count, True, ("plane", "test", "train"))
        assert test.labels.bincount().tolist() == ([6, 5, 5] if count == 16 else [2, 1, 1])
        for name in ("train", "plane", "test"):
            for n in range(1, 5):
                (root / name / f"{n}.png").unlink(missing_ok=True)
    assert len(load_test(fill(tmp_path / "g", picture))[0]) == 12
    assert len(load_test(tmp_path / "g", whole=False)[0]) == len(load(tmp_path / "g").test)


def test_a_part_for_training_alone_is_no_test_part(tmp_path, picture):
    fill(tmp_path / "f" / "train", picture, count=5)
    test, whole = load_test(tmp_path / "f")
    assert (len(test), whole) == (10, True)
    fill(tmp_path / "f" / "val", picture, count=2)
    test, whole = load_test(tmp_path / "f")
    assert (len(test), whole) == (4, False)


def test_a_streamed_folder_says_the_same_of_what_is_passed_over(tmp_path, picture):
    root = fill(tmp_path / "f", picture)
    (root / "a" / "notes.txt").write_text("none")
    picture(root / "a" / "more" / "6.png")
    loaded = load(root).train
    assert len(loaded.notes) == 1 and "1 of them in folders below" in loaded.notes[0] and "notes.txt" in loaded.notes[0]
    assert stream(root, workers=0).train.notes == loaded.notes


def test_what_is_passed_over_is_said(tmp_path, picture):
    root = fill(tmp_path / "f", picture)
    assert load(root).train.notes == ("f: 12 images in 2 classes",)
    (root / "a" / "plain").write_bytes((root / "a" / "0.png").read_bytes())
    (root / "a" / "notes.txt").write_text("none")
    (root / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    picture(root / "stray.png")
    picture(root / "__MACOSX" / "a" / "._0.png")
    (root / "a" / "__MACOSX").mkdir()
    (root / "a" / "._1.png").write_bytes(b"resource fork")
    found = load(root)
    assert found.train.classes == ("a", "b") and len(found.train) + len(found.test) == 12
    (note,) = found.train.notes
    assert note.startswith("f: 12 images in 2 classes; passed over: ")
    assert "1 outside the class folders (such as stray.png)" in note
    assert "2 without the suffix of an image (such as " in note
    assert "1 linked to nothing or to a folder (such as gone.png)" in note


def test_a_loop_of_links_ends(tmp_path, picture):
    root = fill(tmp_path / "f", picture)
    (root / "a" / "loop").symlink_to(root)
    assert "1 linked to nothing or to a folder (such as loop)" in load(root).train.notes[0]


def test_images_that_are_all_alike(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for n in range(5):
            Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / name / f"{n}.png")
    with pytest.raises(ValueError, match=r"all 8 images for training are alike \(every pixel is 9\): nothing can be"):
        load(tmp_path)


def test_more_pixels_than_memory(tmp_path, picture):
    fill(tmp_path, picture)
    with pytest.raises(
        ValueError, match=r"^12 images of 1000000 x 1000000 need 10\.9 TiB of memory, there are .*iB: cho"
    ):
        load(tmp_path, image_size=1_000_000)
