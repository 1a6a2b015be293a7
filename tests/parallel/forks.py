"""Processes that train together: forks of this one, which need no interpreter of their own.

A fork joins its run as a worker of torchrun does, through the same environment variables. Scripts import this.
"""

import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

import forwardonly as fo
from forwardonly.training import join

Work = Callable[[fo.training.Team], None]


class Crew:
    """Forks that train together; each ends with what its work printed or raised in a file of its own."""

    attempt = 0

    def __init__(self, port: int, notes: Path, world: int, work: Work, timeout: float = 60.0, **how: Any):
        Crew.attempt += 1
        self.notes = [notes / f"{Crew.attempt}-{rank}.txt" for rank in range(world)]
        self.pids = []
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
                os.environ.update(TORCHELASTIC_RESTART_COUNT=str(Crew.attempt))
                status = 1
                faulthandler.dump_traceback_later(50)  # before whoever waits loses patience
                try:
                    with join(timeout=timeout, **how) as team:
                        work(team)
                    status = 0
                except ValueError as error:
                    self.notes[rank].write_text(str(error))
                    status = 2
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            self.pids.append(pid)
        self.status: dict[int, int] = {}

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        os.kill(self.pids[rank], number)

    def wait(self, seconds: float, ranks: list[int] | None = None) -> list[int]:
        """Exit statuses by rank, negative for a signal; whoever is not done in time is killed and has -99."""
        ranks = list(range(len(self.pids))) if ranks is None else ranks
        end = time.monotonic() + seconds
        while any(rank not in self.status for rank in ranks) and time.monotonic() < end:
            for rank in ranks:
                if rank not in self.status and (found := os.waitpid(self.pids[rank], os.WNOHANG))[0]:
                    self.status[rank] = os.waitstatus_to_exitcode(found[1])
            time.sleep(0.005)
        for rank in ranks:
            if rank not in self.status:
                self.kill(rank)
                os.waitpid(self.pids[rank], 0)
                self.status[rank] = -99
        return [self.status[rank] for rank in ranks]

    def said(self) -> list[str]:
        return [note.read_text() if note.exists() else "" for note in self.notes]


@contextmanager
def store() -> Iterator[int]:
    """The port of what torchrun's agent keeps for its workers.

    In a process of its own: it has threads, and a fork of a process with threads may find locks held by none.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        os.write(send, str(kept.port).encode())
        signal.pause()
    try:
        yield int(os.read(receive, 8))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
