"""Compatibility of features: a table of the pairs that cannot be combined, and what to choose instead.

All other pairs work together. A test tries every pair and checks that it either works or is refused by this table.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from forwardonly.data.streams import Passing
from forwardonly.data.taking import Data
from forwardonly.network.block import Block
from forwardonly.network.network import Network
from forwardonly.network.signal import Signal, tensors_in
from forwardonly.rules import TwoStreamRule


class Setting(NamedTuple):
    """The parts of a run that are known so far: a config is first checked alone, before there is a network."""

    config: Any
    """A `TrainingConfig`, untyped because its module imports this one; the same holds for `team`."""
    network: Network | None = None
    device: torch.device | None = None
    team: Any = None
    data: Data | None = None


class Feature(NamedTuple):
    """A feature of a run: its name in error sentences, and whether a setting has it."""

    words: str
    used: Callable[[Setting], bool]


FEATURES: Mapping[str, Feature] = {
    "greedy": Feature("blocks that train one after another", lambda s: s.config.schedule == "greedy"),
    "delay": Feature("blocks that start late", lambda s: s.config.delay > 0),
    "workers": Feature("several workers", lambda s: s.config.workers > 1),
    "budget": Feature("a memory budget", lambda s: s.config.memory_budget is not None),
    "in-place": Feature("a model that `localize` cut in place", lambda s: s.network is not None and s.network.in_place),
    "compile": Feature("compiled blocks", lambda s: s.config.compile),
    "replicas": Feature("several processes", lambda s: s.team is not None and s.team.replicas > 1),
    "stages": Feature("processes that share the blocks", lambda s: s.team is not None and s.team.stages > 1),
    "gpu": Feature("a GPU", lambda s: s.device is not None and s.device.type != "cpu"),
    "stream": Feature("a stream, whose batches go by", lambda s: isinstance(s.data, Passing)),
    "dropout": Feature("dropout", lambda s: s.network is not None and s.network.draws),
    "classifier": Feature(
        "a label classifier, which hard negatives and prediction by softmax need",
        lambda s: s.network is not None and s.network.label_classifier is not None,
    ),
    "all-peers": Feature(
        "a rule whose blocks read the goodness of all others",
        lambda s: s.network is not None and s.network.row[0].needs_peers == "all",
    ),
}

REFUSED: Mapping[tuple[str, str], str] = {
    ("greedy", "delay"): "choose delay 0, or schedule simultaneous",
    ("greedy", "workers"): "choose 1 worker: one block is at work at a time",
    ("greedy", "budget"): "choose schedule simultaneous",
    ("greedy", "stages"): "let the processes share the data, with stages 1",
    ("greedy", "in-place"): "choose schedule simultaneous",
    ("delay", "all-peers"): "choose delay 0: such blocks start together",
    ("workers", "budget"): "choose 1 worker",
    ("workers", "in-place"): "choose 1 worker",
    ("workers", "compile"): "choose 1 worker",
    ("workers", "replicas"): "choose 1 worker",
    ("workers", "stages"): "choose 1 worker",
    ("workers", "gpu"): "choose 1 worker",
    ("replicas", "stream"): "train in one process, or give data that can be read by index",
    ("stages", "stream"): "train in one process, or give data that can be read by index",
    ("workers", "dropout"): "choose 1 worker: the draws would depend on which comes first",
    ("workers", "classifier"): "choose 1 worker, or rule options that do without it",
    ("workers", "all-peers"): "choose 1 worker, or a rule that reads the goodness of earlier blocks",
    ("stages", "classifier"): "let the processes share the data, or choose rule options that do without it",
    ("stages", "all-peers"): "let the processes share the data, or choose a rule that reads earlier blocks",
    ("budget", "compile"): "leave out compile",
    ("budget", "replicas"): "train in one process",
    ("budget", "stages"): "train in one process",
    ("budget", "classifier"): "choose uniform negatives and prediction by goodness",
    ("budget", "all-peers"): "choose a rule that reads the goodness of earlier blocks",
    ("in-place", "compile"): "leave out compile",
    ("in-place", "stages"): "let the processes share the data, with stages 1",
}
"""Pairs of features that cannot be combined, in the order of FEATURES, and what to choose instead."""


def check(setting: Setting) -> None:
    """Raises ValueError, one sentence, if a setting combines two incompatible features."""
    for pair in _refused(setting):
        reason = getattr(setting.network, "stays_because", "") if "in-place" in pair else ""
        raise ValueError(refusal(*pair, reason))


def needs_blocks(setting: Setting) -> bool:
    """Whether a setting would be refused because a model's blocks cannot be called alone."""
    return any("in-place" in pair for pair in _refused(setting))


def _refused(setting: Setting) -> list[tuple[str, str]]:
    """The incompatible pairs of features that a setting combines."""
    used = [name for name, feature in FEATURES.items() if feature.used(setting)]
    return [pair for pair in combinations(used, 2) if pair in REFUSED]


def check_counts(setting: Setting, batch: int) -> None:
    """Raises ValueError if there are fewer blocks than workers or stages, or fewer images in a batch than replicas."""
    config, network, team = setting.config, setting.network, setting.team
    assert network is not None and team is not None
    sharing = ((config.workers, "workers", "choose 1"), (team.stages, "processes", "choose stages 1"))
    for count, whose, instead in sharing:
        if len(network.row) < count:
            raise ValueError(f"{count} {whose} cannot share {len(network.row)} block(s): {instead}.")
    if batch < team.replicas:
        raise ValueError(f"A batch of {batch} images cannot be shared by {team.replicas} processes.")
    require_batch(network, batch, team.replicas)


def require_batch(network: Network, batch: int, processes: int = 1) -> None:
    """Raises ValueError if a process would get one image of a batch, and a block's batch norm cannot learn from one.

    Of a rule without labels, which pairs each image with another, if the whole batch is one image.
    """
    if batch == 1 and not network.labelled:
        raise ValueError(
            "A rule without labels compares each image with another of its batch: choose batch_size of 2 or more, "
            "from as many images."
        )
    if network.shape and batch // processes == 1 and (number := block_that_needs_two(network)) is not None:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"Batch norm in block {number} needs 2 images a batch{each}: choose batch_size of {2 * processes} or more, "
            "from as many images."
        )


def block_that_needs_two(network: Network) -> int | None:
    """Number, from 1, of the first block whose batch norm would see one value a channel in a step on one image.

    None if there is none, as under contrastive rules, whose two streams are two images.
    """
    if isinstance(network.rule, TwoStreamRule):
        return None
    blank = network.blank(1)
    one = {"class": (1,), "token": tuple(tensors_in(blank)[0].shape[:2])}.get(network.targets)
    label = torch.zeros(one or (1, network.classes), dtype=torch.int64 if one else None, device=network.device)
    training, seen = network.training, list[Tensor]()
    norms = [norm for norm in network.train().modules() if isinstance(norm, _BatchNorm) and norm.training]
    network.eval()  # the trial must not change running statistics
    handles = [norm.register_forward_pre_hook(lambda _, given: seen.extend(given)) for norm in norms]

    def see(block: Block, activation: Tensor, passed: Signal) -> bool:
        block.rule.local_loss(activation, label, None)
        needs = any(values.numel() == values.shape[1] for values in seen)
        seen.clear()
        return needs

    found = network.seen(network.prepare(blank), see)  # a model may leave blocks out for inputs of zeros
    for handle in handles:
        handle.remove()
    network.train(training)
    return next((index + 1 for index, needs in sorted(found.items()) if needs), None)


def refusal(one: str, other: str, reason: str = "") -> str:
    """The error sentence for an incompatible pair."""
    because = f", for {reason}" if reason else ""
    words = f"{FEATURES[one].words} and {FEATURES[other].words} do not go together{because}: {REFUSED[one, other]}."
    return words[0].upper() + words[1:]
