"""Text files as rows of token ids."""

import pytest
import torch

import forwardonly as fo


def encode(text):
    """A token for each letter."""
    return [ord(letter) for letter in text]


def written(path, **texts):
    path.mkdir(exist_ok=True)
    for name, text in texts.items():
        (path / f"{name}.txt").write_text(text)
    return path


def test_rows_follow_one_another_and_targets_are_one_further(tmp_path):
    (tmp_path / "one.txt").write_text("abcdefghijk")
    train, validation, test = fo.data.texts(tmp_path / "one.txt", encode, length=4)
    assert train.images.tolist() == [encode("abcd"), encode("fghi")]
    assert train.labels.tolist() == [encode("bcde"), encode("ghij")]
    assert train.kind == "token" and validation is None and len(test) == 0


def test_files_are_held_out_whole(tmp_path):
    folder = written(tmp_path, **{f"file{letter}": letter * 30 for letter in "abcdefgh"})
    train, validation, _ = fo.data.texts(folder, encode, length=9, validation=4)
    assert len(validation) >= 4
    assert not set(train.images.flatten().tolist()) & set(validation.images.flatten().tolist())


def test_the_rows_of_one_file_are_divided(tmp_path):
    (tmp_path / "one.txt").write_text("abcdefghijklmnop")
    train, validation, _ = fo.data.texts(tmp_path / "one.txt", encode, length=3, validation=1)
    assert validation.images.tolist() == [encode("abc")] and len(train) == 3


def test_an_end_is_put_behind_each_file(tmp_path):
    rows = fo.data.texts(written(tmp_path, a="xx", b="xx", c="xx"), encode, length=8, end=0).train
    assert torch.cat([rows.images[0], rows.labels[0, -1:]]).tolist() == [*encode("xx"), 0] * 3


def test_the_seed_decides_the_order(tmp_path):
    folder = written(tmp_path, **{letter: letter * 10 for letter in "abcdefgh"})
    one, same, other = (fo.data.texts(folder, encode, length=9, seed=seed).train.images for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_what_is_no_text_is_passed_over_and_said(tmp_path):
    folder = written(tmp_path, notes="abcdef", empty="")
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    train = fo.data.texts(folder, encode, length=5).train
    assert train.images.tolist() == [encode("abcde")]
    assert train.notes == (f"2 files of {folder} were passed over: they are empty or no UTF-8 text.",)


@pytest.mark.parametrize(
    ("texts", "options", "sentence"),
    [
        ({}, {}, "has no text file"),
        ({"a": "abc"}, {"length": 5}, "has 3 tokens in 1 files, too few for a row of 6 beside 0"),
        ({"a": "abc", "b": "abc"}, {"length": 2, "validation": 2}, "too few for a row of 3 beside 2"),
        ({"a": "abc"}, {"length": 0}, "length must be"),
        ({"a": "abc"}, {"validation": -1}, "validation must be"),
    ],
)
def test_too_little_text_is_refused(tmp_path, texts, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fo.data.texts(written(tmp_path, **texts), encode, **options)
    with pytest.raises(ValueError, match="There is no folder or file"):
        fo.data.texts(tmp_path / "nowhere", encode)


@pytest.mark.parametrize(
    ("encode", "given"),
    [
        (str.split, "list such as ['ab', 'ab',"),
        (lambda text: {"input_ids": [1, 2]}, "dict such as {'input_ids'"),
        (lambda text: [1.5] * 40, "list such as [1.5,"),
        (lambda text: torch.arange(40)[None], "Tensor such as tensor([["),
        (lambda text: 7, "int such as 7."),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tmp_path, encode, given):
    (tmp_path / "one.txt").write_text("ab " * 40)
    with pytest.raises(ValueError, match=r"^encode must give a list of whole numbers, .*") as told:
        fo.data.texts(tmp_path / "one.txt", encode, length=4)
    assert given in str(told.value) and "\n" not in str(told.value)


def test_ids_may_be_numpys_or_torchs(tmp_path):
    (tmp_path / "one.txt").write_text("ab")
    for ids in (torch.arange(10), torch.arange(10).numpy(), range(10)):
        train, _, _ = fo.data.texts(tmp_path / "one.txt", lambda text, ids=ids: ids, length=4)
        assert train.images.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    with pytest.raises(ValueError, match="end must be a whole number, not '<end>'"):
        fo.data.texts(tmp_path / "one.txt", encode, end="<end>")
