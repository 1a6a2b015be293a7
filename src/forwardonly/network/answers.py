"""What a network says of each input, as JSON represents it: one class, the labels that are present, or numbers.

Shapes: L blocks, B batch, C outputs.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from forwardonly.network.network import Network
from forwardonly.targets import OBJECTIVES


def answers(network: Network, scores: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each input what `Network.predict` says, by the names of the outputs, of what `Network.scores` gave, (L, B, C).

    Of classes the likeliest ("class", "index", "probability") and all "probabilities"; of several labels those that are
    present ("labels", "indices"; empty if none is) and all "probabilities"; of numbers all "numbers", in their units.

    Raises:
        ValueError: a network that learns tokens.
    """
    if network.targets == "token":
        raise ValueError("The network learns tokens: ask it by network.predict.")
    joined = network.joined(scores)
    if network.targets == "number":
        return [{"numbers": _named(names, row)} for row in joined.tolist()]
    shares = network.probabilities_of(scores)
    if network.targets == "labels":
        present = [
            [place for place, is_there in enumerate(row) if is_there]
            for row in OBJECTIVES["labels"].predict(joined).tolist()
        ]
        return [
            {"labels": [names[place] for place in there], "indices": there, "probabilities": _named(names, row)}
            for there, row in zip(present, shares.tolist(), strict=True)
        ]
    return [
        {
            "class": names[likeliest],
            "index": likeliest,
            "probability": row[likeliest],
            "probabilities": _named(names, row),
        }
        for likeliest, row in zip(shares.argmax(1).tolist(), shares.tolist(), strict=True)
    ]


def _named(names: Sequence[str], row: Sequence[float]) -> dict[str, float]:
    return dict(zip(names, row, strict=True))


def alike(network: Network, scores: Tensor, others: Tensor) -> Tensor:
    """Of which inputs two results (B, C) of `network(...)` say the same, (B,).

    The same class, the same labels, or numbers within 5 % of their deviation in the training data.
    """
    if network.units is not None:
        return ((scores - others).abs() <= 0.05 * network.units.std).all(1)
    predict = OBJECTIVES[network.targets].predict
    same = predict(scores) == predict(others)
    return same if same.dim() == 1 else same.all(1)
