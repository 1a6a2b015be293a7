"""Folders of runs: the default name, a fresh one, the newest; and whether torchrun has restarted the process."""

import itertools
import os
from pathlib import Path

import torch

import forwardonly as fo
from forwardonly.training import Team


def stem_of(data: str, rule: str, seed: int | str) -> Path:
    name = data if data in fo.data.NAMES else Path(data).expanduser().resolve().stem
    return Path("runs") / f"{name}-{rule}-seed{seed}"


def fresh(stem: Path) -> Path:
    """The folder itself, or its name with the first free number."""
    if not stem.exists():
        return stem
    return next(path for k in itertools.count(2) if not (path := stem.with_name(f"{stem.name}-{k}")).exists())


def agreed(team: Team, stem: Path) -> Path:
    """A new folder, the same for all processes."""
    return Path(team.broadcast(str(fresh(stem)), torch.device("cpu")))


def restarted() -> bool:
    """Whether torchrun has restarted this process, after one of the run's processes died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def newest_of(stem: Path) -> Path:
    """The folder that `fresh` returned last."""
    newest = stem
    for k in itertools.count(2):
        if not (path := stem.with_name(f"{stem.name}-{k}")).exists():
            return newest
        newest = path
    raise AssertionError
