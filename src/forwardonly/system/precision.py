"""Device and precision of the arithmetic. Weights are float32 in any case."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


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
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))
