"""`python -m forwardonly`, which is also how launchers such as torchrun start it."""

import sys

from forwardonly.cli import main

if __name__ == "__main__":
    sys.exit(main())
