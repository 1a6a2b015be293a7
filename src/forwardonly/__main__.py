"""`python -m forwardonly`, by which launchers such as torchrun start the command line."""

import sys

from forwardonly.cli import main

if __name__ == "__main__":
    sys.exit(main())
