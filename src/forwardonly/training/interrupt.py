"""Ctrl-C, which finishes the step under way."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the checkpoint was written; its text says how to go on."""


@contextmanager
def finish_step_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the step under way is finished; the second one stops at once."""
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
