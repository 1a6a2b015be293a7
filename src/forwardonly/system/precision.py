"""Device and precision of the arithmetic. Weights are float32 in any case."""

import json
import platform
import time
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
FLAGS = Path("/proc/cpuinfo")
NATIVE = ("avx512_bf16", "amx_bf16", "bf16")
FASTER, SIDE, TIMES = 1.2, 512, 25  # times that bf16 must be as fast; the matrices and the runs of the measurement


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"There is no device {name!r} here: use 'auto', 'cpu' or 'cuda'.") from None
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """fp32 or bf16; `auto` is bf16 only where the processor computes products faster so.

    A processor whose flags name no bf16 takes fp32. Any other is measured once, and the answer kept in the user's
    cache, for some have bf16 and are slower in it: so a Xeon whose virtual machine hides its AMX.

    Raises:
        ValueError: an unknown precision.
    """
    if name == "fp32":
        return "fp32"
    if name == "bf16":
        return "bf16"
    if name != "auto":
        raise ValueError(f"Unknown precision {name!r}: choose one of auto, bf16, fp32.")
    return "bf16" if _native_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device, *, cache: bool = True) -> AbstractContextManager[object]:
    """The context in which blocks compute; with `cache` it holds a bf16 copy of each weight until it closes."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=cache)


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:  # torch's own test of the processor is public only in its newer releases
        flags = FLAGS.read_text(encoding="utf-8").split()
    except OSError:
        return _measured_faster("")
    native = " ".join(name for name in NATIVE if name in flags)
    return native != "" and _measured_faster(native)


def processor_name() -> str:
    """The processor's name, where the system reports it."""
    with suppress(OSError):
        for line in FLAGS.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache  # the arithmetic does not change within a process, even where nothing can be kept
def _measured_faster(flags: str) -> bool:
    """Whether products are faster in bf16, of a processor with these flags; none where they cannot be read.

    It is measured once for a processor and a release of PyTorch, and kept in the user's cache, so that runs repeat.
    """
    import pooch

    of = ", ".join(part for part in (processor_name(), flags, f"torch {torch.__version__}") if part)
    file = Path(pooch.os_cache("forwardonly")) / "bf16.json"
    known: dict[str, bool] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    if of not in known:
        wide, narrow = _seconds()
        known[of] = wide > FASTER * narrow
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known), encoding="utf-8")
    return bool(known[of])


def _seconds() -> tuple[float, float]:
    """Of a product of two matrices in fp32 and in bf16, which alternate; the shortest, for others may compute too."""
    kinds = (torch.float32, torch.bfloat16)
    matrices = [torch.ones(SIDE, SIDE, dtype=kind) for kind in kinds]
    taken: list[list[float]] = [[], []]
    for _ in range(TIMES):
        for matrix, times in zip(matrices, taken, strict=True):
            started = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - started)
    return min(taken[0]), min(taken[1])
