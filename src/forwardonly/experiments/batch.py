"""Batches of runs: each run is a `forwardonly train` process of its own, and finished runs are not repeated."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from forwardonly.network.storage import read_history, read_result, write_json
from forwardonly.system.cores import cores

RECORD = "command.json"
PAUSE = 0.5  # seconds between polls of the running processes


@dataclass(frozen=True)
class Job:
    """One run to do: the options of `forwardonly train` without `--out`, and the folder."""

    options: tuple[str, ...]
    folder: Path

    @property
    def command(self) -> str:
        """The command line of the run."""
        return shlex.join(["forwardonly", "train", *self.options, "--out", str(self.folder)])

    @property
    def finished(self) -> bool:
        """Whether the run has its final result; one that could not be measured is resumed, which measures again."""
        return read_result(self.folder).get("test_accuracy") is not None

    def noted(self) -> tuple[str, ...] | None:
        """The options of the command that made the folder; None if there is no record of one."""
        record = self.folder / RECORD
        return tuple(json.loads(record.read_text())["options"]) if record.exists() else None

    def share(self) -> float:
        """Share of the run that is done, from 0 to 1, by its history."""
        if self.finished:
            return 1.0
        try:
            training = json.loads((self.folder / "config.json").read_text())["training"]
        except OSError:
            return 0.0
        rows = read_history(self.folder)
        phases = len(rows[0]["loss"]) if training["schedule"] == "greedy" and rows else 1
        return min(1.0, len(rows) / (phases * training["epochs"]))


class Finished(NamedTuple):
    """A finished run, as read from its folder."""

    job: Job
    result: dict[str, Any]
    history: list[dict[str, Any]]


class Standing(NamedTuple):
    """Progress of a batch of runs: the share done, from 0 to 1, and the number of finished runs."""

    share: float
    runs: int
    runs_in_all: int


def run_all(
    jobs: Sequence[Job], *, at_once: int = 1, report: Callable[[Standing], None] | None = None
) -> list[Finished]:
    """Runs every job that is not finished, `at_once` at a time with the processor's cores divided among them.

    A job whose folder holds a checkpoint resumes from it. Ctrl-C lets the running jobs write theirs.

    Raises:
        ValueError: a run failed (the text is its error), or a folder holds a run of another command.
    """
    if at_once < 1:
        raise ValueError(f"jobs must be at least 1, not {at_once}.")
    for job in jobs:
        _claim(job)
    pending = [job for job in jobs if not job.finished]
    threads = max(1, cores() // at_once)
    running: list[tuple[Job, subprocess.Popen[str]]] = []
    if report is not None:
        report(_standing(jobs))  # also where all are finished
    try:
        while pending or running:
            while pending and len(running) < at_once:
                job = pending.pop(0)
                running.append((job, _start(job, threads)))
            time.sleep(PAUSE)
            for job, process in list(running):
                if process.poll() is not None:
                    running.remove((job, process))
                    _check(job, process)
            if report is not None:
                report(_standing(jobs))
    except BaseException:
        for _, process in running:
            process.send_signal(signal.SIGINT)  # it writes a checkpoint and ends
        for _, process in running:
            process.wait()
        raise
    return [read_run(job) for job in jobs]


def read_run(job: Job) -> Finished:
    """Reads a finished run.

    Raises:
        ValueError: it trained, but could not be measured or written.
    """
    result = read_result(job.folder)
    if result.get("test_accuracy") is None:
        reasons = " ".join(result.get("notes", ())) or f"{job.folder} cannot be written."
        raise ValueError(f"The run {job.folder.name} has no test accuracy: {reasons}")
    return Finished(job, result, read_history(job.folder))


def _claim(job: Job) -> None:
    """Records the command in the run's folder; raises ValueError if another command made the folder."""
    try:
        then = job.noted()
        if then is not None:
            if then != job.options:
                raise ValueError(
                    f"{job.folder} was made by `forwardonly train {shlex.join(then)}`, "
                    f"not with `{shlex.join(job.options)}`: choose another folder."
                )
            return
        if job.folder.exists() and any(job.folder.iterdir()):
            raise ValueError(f"{job.folder} is not empty and was not made by this command: choose another folder.")
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(job.folder / RECORD, {"options": list(job.options)})
    except OSError as problem:
        raise ValueError(f"Cannot write to {job.folder}: {problem.strerror or problem}.") from None


def _start(job: Job, threads: int) -> subprocess.Popen[str]:
    resume = ["--resume"] if (job.folder / "config.json").exists() else []
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}  # the caller's own number goes before ours
    command = [sys.executable, "-m", "forwardonly.cli.worker", *job.options, "--out", str(job.folder)]
    return subprocess.Popen(
        [*command, *resume, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches it once, from here, and not a second time from the terminal
    )


def _check(job: Job, process: subprocess.Popen[str]) -> None:
    """Raises the error of a run that failed."""
    assert process.stderr is not None
    complaint = process.stderr.read().strip().splitlines()
    process.stderr.close()
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode == 130:
        raise KeyboardInterrupt("interrupted; the same command goes on where it stopped")
    if process.returncode != 0:
        error = complaint[-1].removeprefix("forwardonly: ") if complaint else f"exit status {process.returncode}"
        raise ValueError(f"The run {job.folder.name} failed: {error}")


def _standing(jobs: Sequence[Job]) -> Standing:
    return Standing(sum(job.share() for job in jobs) / len(jobs), sum(job.finished for job in jobs), len(jobs))
