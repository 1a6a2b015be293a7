"""Signs of life: what tells which process has died or hangs, once one waits for another in vain."""

import threading
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

BEAT = 0.5  # seconds


class Heartbeat:
    """A thread that writes this process's sign of life, and the step it is at, to a store that all processes reach.

    Args:
        store: a connection of its own, for one that waits on a connection keeps others from it.
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
        """No more signs of life."""
        self._stop.set()
        self._thread.join()

    def wait(self, key: str, rank: int, patience: float) -> None:
        """Until process `rank` has put `key` into the store, however long that takes it.

        Raises:
            RuntimeError: it gave no sign of life for `patience` seconds.
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
        """Ranks that give no sign of life; if all do, those behind the others, for which these wait.

        The first process to find out says so in the store: it is gone itself by the time that others look.

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
            except RuntimeError:  # the store went with its process: whoever waits will notice
                return
            self._stop.wait(BEAT)

    def _seen(self) -> list[tuple[int, int]]:
        """(beats, step) of each rank; zeros of one that never gave a sign."""
        self.store.set_timeout(timedelta(seconds=10))
        seen = []
        for rank in range(self.world):
            key = f"alive/{rank}"
            words = self.store.get(key).split() if self.store.check([key]) else [b"0", b"0"]
            seen.append((int(words[0]), int(words[1])))
        return seen
