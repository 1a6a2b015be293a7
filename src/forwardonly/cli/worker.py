"""One run in a process that ends when the process that started it does.

`python -m forwardonly.cli.worker TRAIN-ARGUMENTS...`: nothing is ever written to standard input, which closes when its
other end dies, even by SIGKILL. The run then ends, because two processes must not write to one run folder.
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
