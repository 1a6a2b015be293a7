"""`forwardonly data`: lists, fetches and verifies data sets."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.screen import Screen
from forwardonly.data.sources import BAD

Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Data(Common):
    """Options of the command; each action has its own page of help."""

    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]] = "list"
    """What to do; `forwardonly data fetch --help` and the like say more."""
    names: Names = ()
    """Data sets; by default `list` takes all, and `verify` those of which something is on this machine."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""


@dataclass(frozen=True, kw_only=True)
class List(Data):
    """Options of `data list`."""

    prog: ClassVar[str] = "forwardonly data list"
    does: ClassVar[str] = (
        "List the known data sets: sizes, what is on this machine and where, what a download would take."
    )
    action: tyro.conf.Positional[Literal["list"]] = "list"
    """This action; a word that was given is not in the help, but in `prog`."""
    names: Names = ()
    """Data sets to list; by default all."""


@dataclass(frozen=True, kw_only=True)
class Fetch(Data):
    """Options of `data fetch`."""

    prog: ClassVar[str] = "forwardonly data fetch"
    does: ClassVar[str] = (
        "Download data sets that are missing, incomplete or damaged, and check them. Terms of use are said first; a "
        "download that broke off goes on where it stopped."
    )
    action: tyro.conf.Positional[Literal["fetch"]] = "fetch"
    """This action; a word that was given is not in the help, but in `prog`."""
    names: Names = ()
    """Data sets to fetch; at least one."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder to put them in; by default $FORWARDONLY_DATA if it can be written, else the user's cache."""


@dataclass(frozen=True, kw_only=True)
class Verify(Data):
    """Options of `data verify`."""

    prog: ClassVar[str] = "forwardonly data verify"
    does: ClassVar[str] = (
        "Check every file of data sets against its published checksum, or count them where there is none. Exits 2 if "
        "anything is missing, incomplete or damaged."
    )
    action: tyro.conf.Positional[Literal["verify"]] = "verify"
    """This action; a word that was given is not in the help, but in `prog`."""
    names: Names = ()
    """Data sets to verify; by default those of which something is on this machine."""


def options(argv: Sequence[str]) -> type[Data]:
    """The options of the action that `argv` begins with, or of all if it names none."""
    return {"list": List, "fetch": Fetch, "verify": Verify}.get(argv[0] if argv else "", Data)


def run(chosen: Data, screen: Screen) -> dict[str, Any]:
    """`data`, `fetched` or `files`: a list of objects, one per data set or file.

    `problem`, if there is one, says what is missing, damaged or could not be fetched; the command then fails.

    Raises:
        ValueError: an unknown name, or the one download failed.
    """
    if chosen.action == "fetch" and not chosen.names:
        raise ValueError(f"name the data sets to fetch: {', '.join(fo.data.NAMES)}")
    known = [fo.data.describe(name, chosen.data_dir) for name in chosen.names or fo.data.NAMES]
    if chosen.action == "list":
        return {"data": known}
    if chosen.action == "fetch":
        return _fetch(chosen, {row["name"]: row["terms"] for row in known})
    here = chosen.names or [row["name"] for row in known if row["found"] or row["incomplete"]]
    files = [{"name": name, **check} for name in here for check in fo.data.verify(name, chosen.data_dir)]
    bad = [file for file in files if file["status"] in BAD]
    if not bad:
        return {"files": files}
    repair = ["forwardonly", "data", "fetch", *dict.fromkeys(str(file["name"]) for file in bad)]
    if chosen.data_dir is not None:
        repair += ["--data-dir", str(chosen.data_dir)]
    which = f"{bad[0]['path']} is {bad[0]['status']}" + (f", and {len(bad) - 1} more" if len(bad) > 1 else "")
    return {"files": files, "problem": f"{which}; repair with: {shlex.join(repair)}"}


def _fetch(chosen: Data, terms: dict[str, str]) -> dict[str, Any]:
    """`fetched` and, for sets that could not be, `failed`: the others are not held up by them."""
    fetched, failed = [], []
    for name in terms:
        try:
            folder = fo.data.fetch(name, chosen.data_dir)
        except ValueError as error:
            if len(terms) == 1:
                raise
            failed.append({"name": name, "reason": str(error)})
        else:
            fetched.append({"name": name, "folder": str(folder) if folder else "scikit-learn", "terms": terms[name]})
    if not failed:
        return {"fetched": fetched}
    names = ", ".join(each["name"] for each in failed)
    return {"fetched": fetched, "failed": failed, "problem": f"not fetched: {names} ({failed[0]['reason']})"}


def show(result: dict[str, Any], screen: Screen) -> None:
    """One table."""
    if "data" in result:
        columns = ["data set", "here", "images", "classes", "training", "test", "download"]
        screen.table("data sets", columns, [_row(each) for each in result["data"]], words=2)
        places: dict[str, list[str]] = {}
        for each in result["data"]:
            if each["incomplete"]:
                screen.say(f"{each['name']} is incomplete: {each['incomplete']}")
            if each["found"]:
                places.setdefault(each["found"], []).append(each["name"])
        for place, names in places.items():
            screen.say(f"in {place}: {', '.join(names)}")
    elif "fetched" in result:
        for each in result["fetched"]:
            screen.say(f"{each['name']} is in {each['folder']}; terms of use: {each['terms']}")
        for each in result.get("failed", ())[1:]:  # the first is the command's error
            screen.say(f"{each['name']}: {each['reason']}")
    else:
        screen.table(
            "files",
            ["data set", "status", "file"],
            [[f["name"], f["status"] + (f": {f['note']}" if f["note"] else ""), f["path"]] for f in result["files"]],
            words=3,
        )


def _row(row: dict[str, Any]) -> list[str]:
    channels, height, width = row["images"]
    return [
        row["name"],
        "yes" if row["found"] else "partly" if row["incomplete"] else "no",
        f"{height}x{width}x{channels}",
        str(row["classes"]),
        f"{row['train']:,}",
        f"{row['test']:,}",
        f"{row['download_bytes'] / 1e6:.0f} MB" if row["download_bytes"] else "-",
    ]
