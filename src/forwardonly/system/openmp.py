"""A setting of GNU OpenMP, by which PyTorch divides an operation among threads on Linux."""

import os
import sys

SPINS = 1000  # some microseconds


def wait_briefly() -> bool:
    """Lets OpenMP's threads sleep soon while they wait for each other. Returns whether it could be set.

    By default a thread that has finished its part of an operation spins for milliseconds. Where other processes want
    the core, it keeps the very thread from running that it waits for. The setting is read when PyTorch is loaded, for
    the whole process and its children, so only the command line makes it unasked. GOMP_SPINCOUNT and OMP_WAIT_POLICY
    of the caller's own stand. No result depends on it.
    """
    if "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ:
        return False
    return os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS)) == str(SPINS)
