"""Text files as rows of token ids, from which the next token is learned."""

from collections.abc import Callable, Sequence
from operator import index
from pathlib import Path

import torch
from torch import Tensor

from forwardonly.data.examples import Examples
from forwardonly.data.images import Splits
from forwardonly.names import as_path, whole_number

LENGTH = 128
"""Tokens of a row."""


def texts(
    path: str | Path,
    encode: Callable[[str], Sequence[int]],
    *,
    length: int = LENGTH,
    validation: int = 0,
    end: int | None = None,
    seed: int = 0,
) -> Splits:
    """The text files of a folder and of the folders in it, or one file, as examples of the next token.

    Files are read as UTF-8, in an order drawn from `seed`; hidden ones, empty ones and those that are no text are
    passed over. They follow one another in rows of `length` inputs, each with the token behind it as its target; what
    is left of the last row is dropped.

    Args:
        path: a folder, or a file.
        encode: a tokenizer's function from a text to its token ids.
        length: tokens of a row.
        validation: rows to hold out, at least: whole files, so that no file is both learned and held out. The rows of
            one file alone are divided.
        end: a token to put behind each file.
        seed: of the order of the files.

    Returns:
        Splits of (N, length) int64 inputs and targets; `validation` is None where none is held out, and the test
        set has no rows.

    Raises:
        ValueError: there is no such folder, no text in it, or too little for one row beside those held out.
    """
    path = as_path("path", path).expanduser()
    behind = [] if end is None else [whole_number("end", end, 0)]
    if not callable(encode):
        raise ValueError(
            f"encode must be a function from a text to token ids, such as tokenizer.encode, not {encode!r}."
        )
    length, validation = whole_number("length", length, 1), whole_number("validation", validation, 0)
    found, passed = _texts(path, seed)
    if not found:
        raise ValueError(f"{path} has no text file: texts are read as UTF-8.")
    notes = (f"{passed} files of {path} were passed over: they are empty or no UTF-8 text.",) if passed else ()
    ids = [[*_encoded(text, encode), *behind] for text in found]
    if len(ids) == 1 and validation:
        rows = _rows(ids, length)
        held, learned = rows[:validation], rows[validation:]
    else:
        count = 0
        while count < len(ids) and sum(map(len, ids[:count])) < validation * (length + 1):
            count += 1
        held, learned = _rows(ids[:count], length), _rows(ids[count:], length)
    if not len(learned):
        raise ValueError(
            f"{path} has {sum(map(len, ids)):,} tokens in {len(ids)} files, too few for a row of {length + 1} beside "
            f"{validation} that are held out: choose a smaller length, or give more text."
        )
    train, kept, test = (
        Examples(rows[:, :-1], rows[:, 1:], (), path.name, notes, learned="token")
        for rows in (learned, held, learned[:0])
    )
    return Splits(train, kept if validation else None, test)


def _encoded(text: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
    """The token ids of a text; ValueError where `encode` gives something else, such as words or a dict."""
    given = encode(text)
    try:
        return list(map(index, given))  # numpy's numbers and torch's are whole numbers too
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            "encode must give a list of whole numbers, the token ids, as tokenizer.encode does, not "
            f"{type(given).__name__} such as {str(given)[:40]}."
        ) from None


def _texts(path: Path, seed: int) -> tuple[list[str], int]:
    """The texts in an order of their own, and the number of files that were passed over."""
    if not path.exists():
        raise ValueError(f"There is no folder or file {path}.")
    files = [path] if path.is_file() else sorted(own for own in path.rglob("*") if own.is_file() and _shown(own, path))
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    found, passed = [], 0
    for place in order:
        try:
            text = files[place].read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if text.strip() and "\0" not in text:
            found.append(text)
        else:
            passed += 1
    return found, passed


def _shown(file: Path, folder: Path) -> bool:
    """Whether neither a file nor a folder around it, below the given one, is hidden."""
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _rows(ids: Sequence[Sequence[int]], length: int) -> Tensor:
    """(N, length + 1), one text behind another."""
    flat = torch.tensor([token for text in ids for token in text], dtype=torch.int64)
    count = len(flat) // (length + 1)
    return flat[: count * (length + 1)].view(count, length + 1)
