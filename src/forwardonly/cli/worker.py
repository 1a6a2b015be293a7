"""One run in a process of its own, which ends when the process that started it does.

`python -m forwardonly.cli.worker TRAIN-ARGUMENTS...`: standard input is the lifeline. Nothing is ever written to it;
it closes when its other end dies, even by SIGKILL, and then two processes must not write to one run folder.
"""

import os
import sys
import threading

from forwardonly.cli import main


def _die_with_the_starter() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock a daemon thread would still hold when the interpreter shuts down
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_die_with_the_starter, daemon=True).start()
    sys.exit(main(["train", *sys.argv[1:]]))
