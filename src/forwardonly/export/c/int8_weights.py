"""Weights as whole numbers, as `int8.py` defines them."""

import math
from typing import NamedTuple

import numpy as np

from forwardonly.export.c.int8_arithmetic import MOST, ONE, Array, clamped, shifted
from forwardonly.export.c.plan import BlockPlan, Plan, Stage


class Quantised(NamedTuple):
    """A network's weights as whole numbers, by their names in the state dict."""

    weights: dict[str, Array]
    """int8 weights, and int32 biases."""
    errors: dict[str, Array]
    """The int8 errors of weights."""
    exponents: dict[str, int]
    """e of each weight; a bias has that of its layer's weight, a running statistic that of the layer in front."""
    running: dict[str, Array]
    """int32 running means of batch norms and, under the names of the variances, running deviations, both of value /
    2^(e+8)."""

    def linear(self, path: str, given: Array) -> tuple[Array, int]:
        """The output of a linear map under a path, of a signal (D,), and the bits behind its point."""
        sums = self.weights[f"{path}.weight"] @ given + shifted(self.weights[f"{path}.bias"], 8)
        return sums, self.exponents[f"{path}.weight"] + ONE

    def move(self, name: str, step: Array) -> None:
        """Takes a step off a weight, in 256ths of its unit: error feedback. Off a bias, in its unit, it saturates."""
        weight = self.weights[name]
        if is_bias(name):
            weight[...] = np.clip(weight - step.reshape(weight.shape), -MOST, MOST)
            return
        fine = self.errors[name] - step.reshape(weight.shape)
        whole = (fine + 128) >> 8
        self.errors[name][...] = fine - 256 * whole
        weight[...] = clamped(weight + whole)


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias, which is held in 32 bits."""
    return name.endswith(".bias")


def quantise(plan: Plan) -> Quantised:
    """The weights of a plan's network as whole numbers."""
    state = plan.network.state_dict()
    found = Quantised({}, {}, {}, {})
    weights, errors, exponents, running = found
    for part in plan.parts:
        for path in sorted(part.parameters, key=is_bias):  # a bias needs its weight's exponent
            name = part.name(path)
            values = state[name].detach().cpu().double().numpy()
            if is_bias(name):
                exponents[name] = exponents[name.removesuffix(".bias") + ".weight"]
                weights[name] = rounded(values * 2.0 ** (exponents[name] + ONE + 8))
                continue
            largest = float(np.abs(values).max())
            exponents[name] = min(14, max(0, math.floor(math.log2(64 / largest)))) if largest else 7
            fine = rounded(values * 2.0 ** (exponents[name] + 8))
            weights[name] = clamped((fine + 128) >> 8)
            errors[name] = np.clip(fine - 256 * weights[name], -128, 127)
    for block in plan.blocks:
        for stage in block.stages:
            if stage.norm:
                names = [block.name(f"{stage.norm}.running_{of}") for of in ("mean", "var")]
                mean, variance = (state[name].double().cpu().numpy() for name in names)
                e = exponent_before(exponents, block, stage)
                exponents.update(dict.fromkeys(names, e))
                running[names[0]] = rounded(mean * 2.0 ** (e + 8))
                deviation = rounded(np.sqrt(variance) * 2.0 ** (e + 8))
                running[names[1]] = np.maximum(deviation, least(exponents, block, stage))
    return found


def rounded(values: Array) -> Array:
    """The nearest whole numbers that an int32 holds, halves up."""
    return np.clip(np.floor(values + 0.5), -MOST, MOST).astype(np.int64)


def exponent_before(exponents: dict[str, int], block: BlockPlan, stage: Stage) -> int:
    """e of the layer in front of a stage's batch norm."""
    return exponents[block.name(f"{stage.path}.weight")]


def least(exponents: dict[str, int], block: BlockPlan, stage: Stage) -> int:
    """The smallest deviation by which a stage's batch norm divides: the root of its epsilon."""
    return max(1, round(math.sqrt(stage.epsilon) * 2.0 ** (exponent_before(exponents, block, stage) + 8)))
