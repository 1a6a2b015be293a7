"""`ForwardOnlyRegressor`: a perceptron that learns numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin

from forwardonly.data.examples import Examples
from forwardonly.data.targets import require_told_apart
from forwardonly.estimator.perceptron import Perceptron


class ForwardOnlyRegressor(MultiOutputMixin, RegressorMixin, Perceptron):
    """A multilayer perceptron trained without backpropagation to say one number, or several.

    Each layer learns by squared error through a linear read-out of its own; the prediction is the mean of what they
    say. Targets are standardised inside. Features are taken as by `ForwardOnlyClassifier`.

    Args:
        rule: name of a learning rule that learns numbers: projection, auxiliary, best, bilinear or backprop.
        hidden: units of each layer; a number alone is one layer.
        rule_options: options of the rule, by name.
        dropout: share of each layer's inputs that is dropped in training.
        epochs: passes over the rows; None takes the rule's default, as for the options below.
        batch_size: rows in a step; None takes the rule's default, but at most a sixteenth of the rows (8 at least).
        optimiser: muon, or the name of a class in torch.optim.
        learning_rate: highest learning rate.
        weight_decay: of the optimiser.
        precision: arithmetic of training, auto, fp32 or bf16; predictions are always computed in fp32.
        device: where to train and predict: auto, cpu, cuda or cuda:N.
        random_state: seed of initial weights and every draw in training.

    Attributes:
        network_: the `forwardonly.Network`. history_: a row for each epoch of `fit`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def __init__(
        self,
        rule: str = "projection",
        hidden: Sequence[int] | int = (500, 500),
        *,
        rule_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        epochs: int | None = None,
        batch_size: int | None = None,
        optimiser: str | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        precision: str = "auto",
        device: str = "auto",
        random_state: Any = None,
    ):
        super().__init__(
            rule,
            hidden,
            rule_options=rule_options,
            dropout=dropout,
            epochs=epochs,
            batch_size=batch_size,
            optimiser=optimiser,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            precision=precision,
            device=device,
            random_state=random_state,
        )

    def fit(self, X: Any, y: Any) -> Self:
        """Trains from scratch on features X (N, D) and numbers y, (N,) or (N, K).

        Raises:
            ValueError: options or data that make no sense.
        """
        X, y = self._read(X, y, multi_output=True, y_numeric=True)
        self._numbers(X, y)
        return self._train(self._data(X, y))

    def partial_fit(self, X: Any, y: Any) -> Self:
        """One pass over a batch of rows, continuing from what was learned before.

        The first batch determines how features and numbers are scaled.

        Raises:
            ValueError: as `fit`, or another number of numbers than before.
        """
        first = not hasattr(self, "network_")
        X, y = self._read(X, y, first=first, multi_output=True, y_numeric=True)
        if first:
            self._numbers(X, y)
        if (count := y.size // len(y)) != self.network_.classes:
            raise ValueError(f"y has {count} numbers a row, it had {self.network_.classes} in the first call.")
        data = self._data(X, y)
        assert self.network_.units is not None
        self.network_.units.fit(data.labels)
        return self._learn(data)

    def predict(self, X: Any) -> np.ndarray:
        """The numbers of each row, (N,) or (N, K) as y was."""
        numbers = self._scores(X)
        return numbers[:, 0] if self._flat else numbers

    def _numbers(self, X: np.ndarray, y: np.ndarray) -> None:
        """Begins anew for numbers like y."""
        self._begin(X, y.size // len(y), "number")
        self._flat = y.ndim == 1

    def _kept(self) -> dict[str, Any]:
        return {"flat": self._flat}

    def _restore(self, kept: dict[str, Any]) -> None:
        self._flat = bool(kept["flat"])

    def _data(self, X: np.ndarray, y: np.ndarray) -> Examples:
        """Rows and numbers in the form that training takes."""
        require_told_apart(y, "y")
        numbers = torch.from_numpy(y.reshape(len(y), -1).astype(np.float32))
        return Examples(self._rows(X), numbers, tuple(map(str, range(numbers.shape[1]))), "X", learned="number")
