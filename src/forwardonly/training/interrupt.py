"""Ctrl-C in training: the current step is finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a checkpoint was written; the text says how to resume."""


@contextmanager
def finish_step_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the current step is finished; the second interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
