"""The C library keeps freed memory: in a process of its own, for the setting is the whole process's."""

import subprocess
import sys

import pytest

COUNT = """
import resource, torch, forwardonly as fo

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)  # 100 MB: 24,414 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

told = fo.keep_freed_memory()
faults()
print(told, min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_buffers_that_come_and_go_cost_no_page_faults():
    told, faults = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True
    ).stdout.split()
    if told == "False":
        pytest.skip("another C library than glibc")
    assert int(faults) < 1000
