"""The cores that a process may use, which in a container or under a batch system are fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """The number of cores that this process may use: those it may run on, at most its quota of processor time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = quota()
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


def quota(root: Path = Path("/")) -> float | None:
    """The cores whose time the process may use, as Linux's control groups limit it (`docker run --cpus`); None without
    a limit.
    """
    limits = [limit for folder in _groups(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that the process belongs to, of either version of control groups."""
    own = ""
    with suppress(OSError, UnicodeDecodeError):
        own = (root / "proc/self/cgroup").read_text()
    mounted = root / "sys/fs/cgroup"
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = mounted / "cpu" if controllers else mounted
        inner = top / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _limit(folder: Path) -> float | None:
    """The cores' worth of time that a group may use, None if it has no limit of its own."""
    with suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():
            time, period = (folder / "cpu.max").read_text().split()
        else:
            time, period = ((folder / f"cpu.cfs_{of}_us").read_text() for of in ("quota", "period"))
        share = float(time) / float(period)  # "max" is no number, and -1 no limit
        return share if share > 0 else None
    return None
