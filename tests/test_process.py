"""What holds of a whole process, each tested in one of its own: memory is kept and its own, threads wait briefly."""

import os
import re
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


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of GNU OpenMP")
@pytest.mark.parametrize(("own", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_of_a_command_wait_briefly_for_each_other(own, spins):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-m", "forwardonly", "data", "verify", "digits", "--data-dir", "nowhere"],
        env={**environment, **own, "OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = re.findall(r"GOMP_SPINCOUNT\s*=\s*'?(\d+)", done.stderr)
    if not said:
        pytest.skip("another OpenMP than GNU's")
    assert said == [spins]


NARROW = """
import torch, forwardonly as fo
pixels = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
images = fo.data.Images(pixels, torch.arange(32) % 4, tuple("abcd"), "random")
for body in (fo.bodies.ResNet18(width=0.06), fo.bodies.ResNet56(width=0.3)):
    net = fo.build(body, images.shape, rule=fo.rules.Projection(classes=4))
    fo.fit(net, images, epochs=3, batch_size=16, precision="fp32")
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_narrow_residual_networks_write_into_no_memory_but_their_own():
    """As PyTorch's strided 1 x 1 convolution does, on some processors."""
    environment = {**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "5", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", NARROW], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["done"], done.stderr[-500:]
