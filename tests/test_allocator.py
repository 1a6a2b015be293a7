"""Allocator settings: glibc keeps freed memory. Tested in a process of its own, as they apply to the whole process."""

import subprocess
import sys

import pytest

COUNT = """
import resource, torch, forwardonly as fo
from concurrent.futures import ThreadPoolExecutor

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # of all threads
    torch.ones(25_000_000)  # 100 MB: 24,414 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

told = fo.keep_freed_memory()
with ThreadPoolExecutor(1) as worker:  # a worker in training has buffers like any other
    for where in (faults, lambda: worker.submit(faults).result()):
        print(told, min(where() for _ in range(12)))  # the heap takes a few buffers until it has room for the next
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_buffers_that_come_and_go_cost_no_page_faults():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        told, faults = line.split()
        if told == "False":
            pytest.skip("another C library than glibc")
        assert int(faults) < 1000
