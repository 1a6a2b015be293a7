"""Free-riding: how much of its learning signal a block loses to the margins of other blocks.

Yousefiramandi 2026, arXiv 2605.06240. A block's margin is m = g(x, y+) - g(x, y-), its prior margin P the sum of m over
the blocks before it. Under the cumulative loss softplus(-beta (m + gamma P)) its gradient is that of the block alone
times R = (1 + e^{beta m}) / (1 + e^{beta (m + gamma P)}), which falls as e^{-beta gamma P}; starvation is mean[1 -
min(1, R)]. Ours: R is measured, as the ratio of two gradients of the rule's own loss, so that it applies to every
contrastive rule and remedy and can contradict the formula.

Shapes: L blocks, N images, C classes; everything here is float64, because R spans many orders of magnitude.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from forwardonly import labels as label_code
from forwardonly.data import Images
from forwardonly.measure.accuracy import matched
from forwardonly.names import whole_number
from forwardonly.network.network import Network
from forwardonly.rules import PeerGoodness, Rule, TwoStreamRule
from forwardonly.system.precision import autocast, choose_precision
from forwardonly.targets import OBJECTIVES

SATURATED = 3.0
"""The law is asymptotic; it is fitted where beta M is at least this, so that 1 + e^{beta M} is e^{beta M} within 5 %.
"""


@dataclass(frozen=True)
class BlockDiagnosis:
    """Means over images for one block; `attenuation` is the median of R, as few images dominate a mean of ratios."""

    margin: float
    prior_margin: float
    attenuation: float
    starvation: float
    separation: float
    accuracy: float


class Diagnosis(NamedTuple):
    """`law_slope` is the slope of log R on P, None where no block reads peer goodness or too few margins are large."""

    blocks: list[BlockDiagnosis]
    law_slope: float | None
    law_predicted: float | None

    def as_json(self) -> dict[str, Any]:
        """The object that `diagnose --json` prints."""
        return {**self._asdict(), "blocks": [asdict(block) for block in self.blocks]}


def diagnose(
    network: Network, images: Images, *, seed: int = 0, batch_size: int = 1000, precision: str = "auto"
) -> Diagnosis:
    """Measures free-riding block by block; one wrong label per image is drawn from `seed`.

    Raises:
        ValueError: no images, or images that are not the network's, or a network that does not learn classes.
    """
    require_wrong_labels(network)
    batch_size = whole_number("batch_size", batch_size, 1)
    if len(images) == 0:
        raise ValueError("There are no images to diagnose on.")
    images = matched(network, images)
    goodness_LNC = class_goodness(network, images, batch_size, precision)
    labels = images.labels.to(goodness_LNC.device)
    generator = torch.Generator(labels.device).manual_seed(seed)
    wrong = label_code.wrong_labels(labels, network.classes, generator)
    positive, negative = at(goodness_LNC, labels), at(goodness_LNC, wrong)
    rules = [block.rule for block in network.row][: len(positive)]
    ratio = attenuation(rules, positive, negative)
    margin = positive - negative
    prior = margin.cumsum(0) - margin
    separation = separations(goodness_LNC, labels)
    right = (goodness_LNC.argmax(2) == labels).double()
    blocks = [
        BlockDiagnosis(
            margin=float(margin[d].mean()),
            prior_margin=float(prior[d].mean()),
            attenuation=float(ratio[d].median()),
            starvation=float((1 - ratio[d].clamp_max(1)).mean()),
            separation=float(separation[d].mean()),
            accuracy=float(right[d].mean()),
        )
        for d in range(len(margin))
    ]
    beta, gamma = getattr(network.rule, "beta", None), getattr(network.rule, "gamma", None)
    if not isinstance(beta, float) or not isinstance(gamma, float):
        return Diagnosis(blocks, None, None)
    return Diagnosis(blocks, law_slope(ratio, margin, prior, beta, gamma), -beta * gamma)


def require_wrong_labels(network: Network) -> None:
    """Raises ValueError for a network that does not learn classes, of which each example has a right one and others."""
    network.require_classes()
    if network.targets != "class":
        raise ValueError(
            "Free-riding is measured between the right class and a wrong one, and this network learns "
            f"{OBJECTIVES[network.targets].words}: measure it by fo.evaluate."
        )


def class_goodness(network: Network, images: Images, batch_size: int, precision: str) -> Tensor:
    """Every block's goodness, or score, of every class: (L, N, C)."""
    device = network.device
    with network.evaluating(), torch.no_grad(), autocast(choose_precision(precision, device), device):
        parts = [network.goodness(part.to(device)) for part in images.images.split(batch_size)]
    return torch.cat(parts, dim=1).double()


def at(scores_LNC: Tensor, labels: Tensor) -> Tensor:
    """The scores of the classes `labels` (N,): (L, N)."""
    return scores_LNC.gather(2, labels.expand(len(scores_LNC), -1).unsqueeze(2)).squeeze(2)


def separations(scores_LNC: Tensor, labels: Tensor) -> Tensor:
    """g(x, y+) - g(x, hardest wrong label), own goodness only: (L, N)."""
    others = scores_LNC.scatter(2, labels.expand(len(scores_LNC), -1).unsqueeze(2), -torch.inf)
    return at(scores_LNC, labels) - others.amax(2)


def attenuation(rules: Sequence[Rule], positive: Tensor, negative: Tensor) -> Tensor:
    """R of every block and image: the gradient with peer goodness over that without, (L, N) from goodness (L, N)."""
    rows = []
    for index, rule in enumerate(rules):
        if not isinstance(rule, TwoStreamRule) or rule.needs_peers == "none":
            rows.append(torch.ones_like(positive[index]))
            continue
        peers = (
            PeerGoodness(positive, negative)
            if rule.needs_peers == "all"
            else PeerGoodness(positive[:index], negative[:index])
        )
        own = PeerGoodness(positive[index], negative[index])
        aided = _strength(own, lambda p, n, rule=rule, peers=peers: rule.loss(p, n, peers))
        alone = _strength(own, lambda p, n, rule=rule: rule.unaided(p, n))
        rows.append(aided / alone.clamp_min(1e-300))
    return torch.stack(rows)


def law_slope(ratio: Tensor, margin: Tensor, prior: Tensor, beta: float, gamma: float) -> float | None:
    """Least-squares slope of log R on P over the blocks after the first, all (L, N), where the loss is saturated."""
    ratio, margin, prior = ratio[1:], margin[1:], prior[1:]
    valid = (beta * (margin + gamma * prior) >= SATURATED) & (beta * margin >= SATURATED) & (ratio > 0)
    if gamma == 0 or int(valid.sum()) < 30:
        return None
    x, y = prior[valid], ratio[valid].log()
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def _strength(own: PeerGoodness, loss: Any) -> Tensor:
    """Size of a loss's gradient for each image: |d loss / d positive| + |d loss / d negative|, (N,)."""
    with torch.enable_grad():
        streams = [stream.detach().requires_grad_() for stream in own]
        gradients = torch.autograd.grad(loss(*streams), streams)
    return gradients[0].abs() + gradients[1].abs()
