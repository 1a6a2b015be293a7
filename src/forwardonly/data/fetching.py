"""Downloads: verified by hash, shown by a progress bar, resumed after an interruption, explained where impossible."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from forwardonly.data.reading import GIB, UnreadableError, reading
from forwardonly.data.sources import (
    BAD,
    TINY,
    File,
    Source,
    find,
    folders,
    has_words,
    incomplete,
    locate,
    md5,
    source,
    verify,
)

ATTEMPTS = 3  # connections to try before the user is asked to run the command again


class _Stopped(Exception):
    """The download broke off; the received bytes are kept for the next attempt."""


def fetch(name: str, data_dir: Path | str | None = None, *, progress: bool = True) -> Path | None:
    """The folder that holds the complete, verified set, after downloading missing or damaged files.

    It is `data_dir`, else $FORWARDONLY_DATA if that is writable, else the user's cache. None for `digits`, which comes
    with scikit-learn. With `progress`, the terms of use are said on standard error before a download, and on a terminal
    a bar shows it. Raises ValueError that says which files to put where if the set cannot be fetched.
    """
    known = source(name)
    if not known.url:
        return None
    root = find(name, data_dir)
    named = root is None or not (root / TINY).is_dir() or name != "tiny-imagenet" or has_words(root)
    if root is not None and named and not any(check["status"] in BAD for check in verify(name, data_dir)):
        return unpack(known, root)
    choices, part = folders(data_dir), incomplete(name, data_dir)
    if root is None and part is not None and _writable(part[0]):
        root = part[0]  # repaired where it is
    else:
        root = next((folder for folder in choices if _writable(folder)), None)
    if root is None:
        raise ValueError(f"{choices[0]}: no permission to write there, so {name} cannot be fetched into it")
    wanted = [known.archive] if known.archive else list(known.files)
    if progress:
        print(f"terms of use of {name}: {known.terms}", file=sys.stderr, flush=True)
    for file in wanted:
        assert file is not None
        _download(name, known, file, root, progress)
    return unpack(known, root, again=True)


def missing(name: str, data_dir: Path | str | None) -> str:
    """The sentence for a set that is not here, which says which files to put where."""
    known, root = source(name), folders(data_dir)[0]
    if known.archive:
        wanted, where = known.archive.path, root
        if (part := incomplete(name, data_dir)) is not None:
            where = part[0]
            return f"in {where} it is incomplete ({part[1]}): put {wanted} from {known.url} there, then fetch it again"
    else:
        wanted = ", ".join(Path(file.path).name for file in known.files)
        where = root / Path(known.files[0].path).parent
    return f"put {wanted} from {known.url} into {where}, or name their folder by --data-dir or FORWARDONLY_DATA"


def unpack(known: Source, root: Path, *, again: bool = False) -> Path:
    """`root`, after extracting the known files, and only those, from the archive there if one is missing.

    Paths in the archive are never followed: a member is written under our own name for it, once its checksum is right.
    """
    if known.archive is not None and not known.files and (root / TINY).is_dir() and again:
        _complete_tiny_imagenet(root / known.archive.path, root)
    if known.archive is None or not known.files or (not again and all(locate(root, f) for f in known.files)):
        return root
    archive = root / known.archive.path
    wanted = {file.path: file for file in known.files}
    with reading(archive, "a .tar.gz archive"), tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            file = wanted.get(member.name.removeprefix("./"))
            if member.size > GIB:
                raise UnreadableError(f"{archive}: {member.name[:80]!r} in it is larger than 1 GiB, refused")
            stream = opened.extractfile(member) if file is not None and member.isreg() else None
            if file is None or stream is None:
                continue
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = tempfile.NamedTemporaryFile(dir=target.parent, delete=False)  # noqa: SIM115 - renamed below
            try:
                with copy:
                    shutil.copyfileobj(stream, copy, 1 << 20)
                if md5(Path(copy.name)) != file.md5:
                    raise UnreadableError(f"{archive}: {file.path} in it is not the published file")
                os.chmod(copy.name, 0o644)
                os.replace(copy.name, target)
            finally:
                Path(copy.name).unlink(missing_ok=True)
            del wanted[file.path]
    if wanted:
        raise ValueError(f"{archive}: it has no {next(iter(wanted))} in it")
    return root


def _complete_tiny_imagenet(archive: Path, root: Path) -> None:
    """Writes the files of Tiny ImageNet that its folder in `root` lacks, from the archive; only those of its layout."""
    layout = re.compile(rf"{TINY}/(wnids|words|val/val_annotations)\.txt|{TINY}/(train/n\d+|val)/images/\w+\.JPEG")
    with reading(archive, "a zip archive"), zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            target = root / member.filename
            here = target.is_file() and target.stat().st_size == member.file_size
            if here or not layout.fullmatch(member.filename):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = target.with_name(f".{target.name}.part")
            with opened.open(member) as stream, copy.open("wb") as kept:
                shutil.copyfileobj(stream, kept, 1 << 20)
            os.replace(copy, target)


def _writable(folder: Path) -> bool:
    while not os.path.exists(folder):
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK)


def _download(name: str, known: Source, file: File, root: Path, progress: bool) -> None:
    import pooch
    import requests

    target = root / file.path
    url = known.url + target.name
    made = [folder for folder in target.parents if not folder.exists()]  # the deepest first
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)  # the bar shows what pooch would log
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{file.md5}",
            fname=target.name,
            path=target.parent,
            downloader=_Resumable(target.with_name(target.name + ".part"), file.size, progress),
        )
    except _Stopped as error:
        raise ValueError(
            f"the download of {url} stopped after {error}: run the same command again to go on from there"
        ) from error
    except requests.RequestException as error:
        reason = f"status {error.response.status_code}" if error.response is not None else "no connection"
        raise ValueError(f"cannot download {name} ({reason}): {missing(name, root)}") from error
    except ValueError as error:  # pooch's, for a wrong hash
        raise ValueError(
            f"{url}: what came does not match the published checksum, nothing was kept; {missing(name, root)}"
        ) from error
    except OSError as error:
        raise ValueError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        logger.setLevel(level)
        for folder in made:
            with contextlib.suppress(OSError):  # not empty: the file, or the part of it that came, is there
                folder.rmdir()


class _Resumable:
    """A downloader for pooch that collects a file in `part` and requests only the missing bytes."""

    def __init__(self, part: Path, size: int, progress: bool) -> None:
        self.part, self.size, self.progress = part, size, progress

    def __call__(self, url: str, output_file: str, _pooch: Any) -> None:
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.DownloadColumn(),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with bars.Progress(*columns, console=console, disable=not (self.progress and console.is_terminal)) as bar:
            task = bar.add_task(self.part.stem, total=self.size or None)
            for attempt in range(ATTEMPTS):
                try:
                    self._gather(url, bar, task)
                    break
                except _Stopped:
                    if attempt == ATTEMPTS - 1:
                        raise
        os.replace(self.part, output_file)

    def _gather(self, url: str, bar: Any, task: Any) -> None:
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        if self.size and have == self.size:
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
            goes_on = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            )
            if response.status_code == 416 or (response.status_code == 206 and not goes_on):
                self.part.unlink(missing_ok=True)  # the part is not the beginning of that file
                raise _Stopped("0 bytes")
            response.raise_for_status()
            response.raw.enforce_content_length = False  # it would drop the bytes of a short answer; checked below
            with self.part.open("ab" if goes_on else "wb") as part:
                bar.update(task, completed=part.tell())
                end = part.tell() + int(response.headers.get("Content-Length", 0))
                try:
                    for piece in response.iter_content(1 << 18):
                        part.write(piece)
                        bar.update(task, completed=part.tell())
                        if self.size and part.tell() > self.size:
                            return  # not the published file: its checksum will say so
                except requests.RequestException as error:
                    raise _Stopped(f"{part.tell():,} bytes") from error
                if part.tell() < end:
                    raise _Stopped(f"{part.tell():,} bytes")
