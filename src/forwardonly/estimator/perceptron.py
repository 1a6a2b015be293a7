"""What the classifier and the regressor share: options, preparation of rows, training, files."""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

import forwardonly as fo
from forwardonly.data.resolution import require_columns_told_apart
from forwardonly.names import plain
from forwardonly.network.storage import read_config
from forwardonly.rules import ContrastiveRule
from forwardonly.system.precision import choose_device
from forwardonly.targets import Kind
from forwardonly.training.compatibility import block_that_needs_two

DTYPES = [np.float32, np.uint8]  # other types are converted to float32
CHUNK = 256  # rows scored at a time, always as many, so that a row's scores do not depend on the others


class Perceptron(BaseEstimator):
    """An estimator with a network; scikit-learn's kind of it comes from the classes that are made of this one."""

    def __init__(
        self,
        rule: str = "hyperspherical",
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
        self.rule = rule
        self.hidden = hidden
        self.rule_options = rule_options
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def save(self, folder: str | Path) -> None:
        """Writes the fitted estimator to a folder, as safetensors and JSON; nothing is pickled.

        Raises:
            ValueError: the folder cannot be written, or the labels are of a type that JSON does not have.
        """
        check_is_fitted(self)
        parameters = {name: value for name, value in self.get_params().items() if name != "random_state"}
        kept = {
            "parameters": plain(parameters),
            "features": self.n_features_in_,
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            "pixels": self._pixels,
            "shift": self._shift,
            "scale": self._scale,
            **self._kept(),
        }
        try:
            json.dumps(kept)  # before anything is written
        except TypeError as problem:
            raise ValueError(
                f"The labels or the options cannot be saved as JSON ({problem}): fit on labels that are texts, numbers "
                "or truth values."
            ) from None
        fo.save(self.network_, folder, estimator=kept)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The estimator that `save` wrote, ready to predict or to continue with `partial_fit`.

        Raises:
            ValueError: it does not exist, or is damaged.
        """
        config = read_config(folder)
        try:
            kept = config["estimator"]
            estimator = cls(**kept["parameters"])
            estimator._restore(kept)
            estimator.n_features_in_ = int(kept["features"])
            if kept["feature_names"]:
                estimator.feature_names_in_ = np.array(kept["feature_names"], dtype=object)
            estimator._shift, estimator._scale = float(kept["shift"]), float(kept["scale"])
            estimator._pixels = bool(kept["pixels"])
        except (KeyError, TypeError) as problem:
            raise ValueError(f"{folder} was not written by {cls.__name__}.save: {problem!r}.") from None
        estimator._seed = 0
        estimator.network_ = fo.load(folder).to(choose_device(estimator.device))
        return estimator

    def _kept(self) -> dict[str, Any]:
        """What `save` writes besides."""
        raise NotImplementedError

    def _restore(self, kept: dict[str, Any]) -> None:
        """Takes back what `_kept` gave."""
        raise NotImplementedError

    def _begin(self, X: np.ndarray, outputs: int, targets: Kind = "class") -> None:
        """Makes a network with fresh weights for features like X."""
        rule = fo.rules.make(self.rule, classes=outputs, targets=targets, **(self.rule_options or {}))
        if not rule.labelled:
            raise ValueError(
                f"The rule {self.rule} learns without labels, so it makes no estimator: train it by fo.fit, and read "
                "the network by fo.probe."
            )
        drawn = not isinstance(self.random_state, numbers.Integral)
        self._seed = int(check_random_state(self.random_state).randint(2**31) if drawn else self.random_state)
        self._pixels = X.dtype == np.uint8
        self._shift = 0.0 if self._pixels else float(X.mean(dtype=np.float64))
        self._scale = 255.0 if self._pixels else float(X.std(dtype=np.float64)) or 1.0
        width = X.shape[1] + (outputs if isinstance(rule, ContrastiveRule) else 0)
        network = fo.mlp((1, 1, width), self.hidden, rule=rule, dropout=self.dropout, seed=self._seed)
        if not self._pixels:
            network.prepare.fitted.fill_(True)  # features are scaled here, so a run must not standardise them again
        self.network_ = network.to(choose_device(self.device))
        if hasattr(self, "_online"):
            del self._online

    def _train(self, data: fo.data.Images) -> Self:
        """Trains the fresh network."""
        run = fo.fit(self.network_, data, seed=self._seed, device=self.device, **self._training_options())
        self.history_ = run.history
        self.network_.eval()
        return self

    def _learn(self, data: fo.data.Images) -> Self:
        """One more pass over rows."""
        options = self._training_options()
        self.network_.prepare.fit(data.images)
        if not hasattr(self, "_online"):
            self._online = fo.training.Online(self.network_, seed=self._seed, **options)
        batch_size = fo.training.TrainingConfig.resolve(self.network_.rule, data, options).batch_size
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self._seed + self._online.steps))
        for chosen in _chunks(order, batch_size, self.network_):
            self._online.learn(data.images[chosen], data.labels[chosen])
        self.network_.eval()
        return self

    def _training_options(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimiser": self.optimiser,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "precision": self.precision,
        }

    def _rows(self, X: np.ndarray) -> Tensor:
        """Features (N, D) as the network's input, (N, 1, 1, D), behind blank columns if a label code needs them."""
        if self._pixels and X.dtype == np.uint8:
            rows = torch.from_numpy(X)
        else:
            rows = torch.from_numpy((X.astype(np.float32) - np.float32(self._shift)) / np.float32(self._scale))
        blank = self.network_.shape[2] - rows.shape[1]
        return torch.nn.functional.pad(rows, (blank, 0)).view(len(rows), 1, 1, -1)

    def _read(self, X: Any, y: Any, *, first: bool = True, **kind: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows and targets as arrays, as scikit-learn checks them; of the `first`, from which scales are learned, also
        whether float32 tells each column's values apart. `kind` says what the targets are.
        """
        rows, targets = validate_data(self, X, y, dtype=DTYPES, reset=first, **kind)
        if first:
            require_columns_told_apart(X, "X")
        return rows, targets

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=DTYPES, reset=False)
        rows = self._rows(X)
        whole = torch.nn.functional.pad(rows, (0, 0) * 3 + (0, -len(rows) % CHUNK))
        device = self.network_.device
        with torch.no_grad():
            parts = [self.network_(chunk.to(device)).cpu() for chunk in whole.split(CHUNK)]
        scores: np.ndarray = torch.cat(parts)[: len(rows)].double().numpy()
        return scores


def _chunks(order: Tensor, size: int, network: fo.Network) -> list[Tensor]:
    """Rows in chunks of `size`; one row that is left over joins the chunk before if batch norm cannot learn from it."""
    chunks = list(order.split(size))
    if len(chunks) > 1 and len(chunks[-1]) == 1 < size and block_that_needs_two(network) is not None:
        chunks[-2:] = [torch.cat(chunks[-2:])]
    return chunks
