"""`forwardonly data`: lists, fetches and verifies data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import forwardonly as fo
from forwardonly.cli.parsing import UNSET, Common
from forwardonly.cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class Data(Common):
    """Options of the command."""

    action: tyro.conf.Positional[Literal["list", "fetch", "verify"]] = "list"
    """What to do: list the known data sets, fetch some, or verify the files of those on this machine."""
    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]", help_behavior_hint="")
    ] = ()
    """Data sets; by default `list` and `verify` take all."""
    data_dir: Annotated[Path | None, UNSET, tyro.conf.DisallowNone] = None
    """Folder of the data sets; by default $FORWARDONLY_DATA, then the user's cache."""


def options(argv: Sequence[str]) -> type[Data]:
    """The options of the command, which do not depend on `argv`."""
    return Data


def run(chosen: Data, screen: Screen) -> dict[str, Any]:
    """`data`, `fetched` or `files`: a list of objects, one per data set or file.

    Raises:
        ValueError: an unknown name, a download that failed, or a file that is missing or damaged.
    """
    known = {row["name"]: row for row in fo.data.table(chosen.data_dir)}
    names = chosen.names or tuple(known)
    for name in chosen.names:
        if name not in known:
            fo.data.describe(name)  # raises, with the nearest name
    if chosen.action == "list":
        return {"data": [known[name] for name in names]}
    if chosen.action == "fetch":
        if not chosen.names:
            raise ValueError(f"name the data sets to fetch: {', '.join(known)}")
        folders = {name: fo.data.fetch(name, chosen.data_dir) for name in names}
        return {
            "fetched": [
                {"name": name, "folder": str(folder) if folder else "scikit-learn", "terms": known[name]["terms"]}
                for name, folder in folders.items()
            ]
        }
    here = chosen.names or tuple(name for name in names if known[name]["found"])
    files = [{"name": name, **check} for name in here for check in fo.data.verify(name, chosen.data_dir)]
    for file in files:
        if file["status"] in ("missing", "damaged"):
            raise ValueError(
                f"{file['path']} is {file['status']}; repair it with: forwardonly data fetch {file['name']}"
            )
    return {"files": files}


def show(result: dict[str, Any], screen: Screen) -> None:
    """One table."""
    if "data" in result:
        columns = ["data set", "found in", "images", "classes", "training", "test", "download"]
        screen.table("data sets", columns, [_row(each) for each in result["data"]], words=2)
    elif "fetched" in result:
        for each in result["fetched"]:
            screen.say(f"{each['name']} is in {each['folder']}; terms of use: {each['terms']}")
    else:
        screen.table(
            "files",
            ["data set", "status", "file"],
            [[f["name"], f["status"], f["path"]] for f in result["files"]],
            words=3,
        )


def _row(row: dict[str, Any]) -> list[str]:
    channels, height, width = row["images"]
    return [
        row["name"],
        row["found"] or "-",
        f"{height}x{width}x{channels}",
        str(row["classes"]),
        f"{row['train']:,}",
        f"{row['test']:,}",
        f"{row['download_bytes'] / 1e6:.0f} MB" if row["download_bytes"] else "-",
    ]
