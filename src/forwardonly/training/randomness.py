"""Every random number of a run is a function of its seed and its place: phase, epoch, step.

So a run that is resumed, or spread over processes, draws the same numbers without any generator's state being kept.
"""

import numpy as np
import torch


def seed_at(seed: int, *place: int) -> int:
    """A 63-bit seed for a place in a run, unrelated to that of any other place."""
    high, low = np.random.SeedSequence([seed, *place]).generate_state(2)
    return (int(high) << 31) ^ int(low)


def generator_at(device: torch.device, seed: int, *place: int) -> torch.Generator:
    """A generator on `device` for a place in a run."""
    return torch.Generator(device).manual_seed(seed_at(seed, *place))
