"""Random numbers of a run: each is a function of the seed and the position (phase, epoch, step).

A run that is resumed or spread over processes therefore draws the same numbers, and no generator state is saved.
"""

import numpy as np
import torch


def seed_at(seed: int, *position: int) -> int:
    """A 63-bit seed for a position in a run, independent of that of any other position."""
    high, low = np.random.SeedSequence([seed, *position]).generate_state(2)
    return (int(high) << 31) ^ int(low)


def generator_at(device: torch.device, seed: int, *position: int) -> torch.Generator:
    """A generator on `device` for a position in a run."""
    return torch.Generator(device).manual_seed(seed_at(seed, *position))
