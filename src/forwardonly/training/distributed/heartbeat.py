"""Heartbeats: find the process that died or hangs."""

import threading
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

BEAT = 0.5  # seconds


class Heartbeat:
    """A thread that writes this process's heartbeat and current step to a store that all processes can reach.

    Args:
        store: a connection of its own, because a wait on a connection blocks its other users.
    """

    def __init__(self, store: Store, rank: int, world: int):
        self.store = store
        self.rank = rank
        self.world = world
        self.step = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the heartbeat."""
        self._stop.set()
        self._thread.join()

    def wait(self, key: str, rank: int, patience: float) -> None:
        """Waits until process `rank` has put `key` into the store, for as long as its heartbeat continues.

        Raises:
            RuntimeError: the process had no heartbeat for `patience` seconds.
        """
        last, since = self._seen()[rank], time.monotonic()
        while not self.store.check([key]):
            seen, now = self._seen()[rank], time.monotonic()
            if seen != last:
                last, since = seen, now
            elif now - since > patience:
                raise RuntimeError(f"no sign of life from rank {rank}")
            time.sleep(BEAT / 5)

    def missing(self) -> list[int]:
        """Ranks without a heartbeat; if all have one, the ranks furthest behind, for which the others wait.

        The first process to find them records them in the store, because it will itself be gone when others look.

        Raises:
            RuntimeError: the store is gone too.
        """
        found = self._silent()
        if not found:
            return found
        first = self.store.compare_set("missing", "", " ".join(map(str, found)))
        agreed = [int(rank) for rank in first.split()]
        return found if self.rank in agreed else agreed

    def _silent(self) -> list[int]:
        before = self._seen()
        time.sleep(4 * BEAT)
        after = self._seen()
        silent = [rank for rank in range(self.world) if after[rank] == before[rank] and rank != self.rank]
        if silent:
            return silent
        steps = [step for _, step in after]
        behind = [rank for rank in range(self.world) if steps[rank] < max(steps)]
        return [rank for rank in behind if steps[rank] == min(steps)]

    def _beat(self) -> None:
        beats = 0
        while not self._stop.is_set():
            beats += 1
            try:
                self.store.set(f"alive/{self.rank}", f"{beats} {self.step}")
            except RuntimeError:  # the store's process died; those that wait for it will report that
                return
            self._stop.wait(BEAT)

    def _seen(self) -> list[tuple[int, int]]:
        """(beats, step) of each rank; zeros for one that never sent a heartbeat."""
        self.store.set_timeout(timedelta(seconds=10))
        seen = []
        for rank in range(self.world):
            key = f"alive/{rank}"
            words = self.store.get(key).split() if self.store.check([key]) else [b"0", b"0"]
            seen.append((int(words[0]), int(words[1])))
        return seen
