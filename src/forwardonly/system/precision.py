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
FASTER, SIDE, TIMES = 1.2, 512, 7  # times that bf16 must be as fast; the matrices and the runs of the measurement


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
    """fp32 or bf16; `auto` is bf16 only where the processor computes it natively.

    A processor whose flags cannot be read is measured once, and the answer kept in the user's cache.

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
        flags = FLAGS.read_text()
    except OSError:
        return _measured_faster()
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))


@cache  # the arithmetic does not change within a process, even where nothing can be kept
def _measured_faster() -> bool:
    """Whether products are faster in bf16, of a processor that does not say it.

    It is measured once for a processor and a release of PyTorch, and kept in the user's cache, so that runs repeat.
    """
    import pooch

    of = f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    file = Path(pooch.os_cache("forwardonly")) / "bf16.json"
    known: dict[str, bool] = {}
    with suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(file.read_text(encoding="utf-8")))
    if of not in known:
        known[of] = _seconds(torch.float32) > FASTER * _seconds(torch.bfloat16)
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known), encoding="utf-8")
    return bool(known[of])


def _seconds(kind: torch.dtype) -> float:
    """Of a product of two matrices; the shortest of a few, for others may use the processor too."""
    matrix = torch.ones(SIDE, SIDE, dtype=kind)
    taken = []
    for _ in range(TIMES):
        started = time.perf_counter()
        matrix @ matrix
        taken.append(time.perf_counter() - started)
    return min(taken)
