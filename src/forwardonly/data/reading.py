"""Errors of readers: any exception that a broken file causes becomes one clear sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

GIB = 1 << 30


class UnreadableError(ValueError):
    """A sentence that already names the file and needs no wrapping."""


@contextmanager
def reading(path: object, kind: str) -> Iterator[None]:
    """A context around code that reads `path`: every failure becomes one ValueError that names the file.

    Pillow's plugins, zipfile, zlib and numpy raise some fifteen types on invalid bytes, so this catches Exception: that
    a file is damaged is the user's concern, wherever it was noticed.
    """
    try:
        yield
    except UnreadableError:
        raise
    except FileNotFoundError as error:
        raise UnreadableError(f"{path}: there is no such file") from error
    except PermissionError as error:
        raise UnreadableError(f"{error.filename or path}: permission denied") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableError(f"{path}: damaged or not {kind} ({reason})") from error
