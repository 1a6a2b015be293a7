import resource
import sys

import pytest
import torch

from forwardonly import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_buffers_that_come_and_go_cost_no_page_faults() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library than glibc")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(25_000_000)  # 100 MB: 24,414 pages of 4 KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(3)) < 1000
