"""A scikit-learn classifier: a multilayer perceptron whose layers are trained locally."""

from __future__ import annotations

import json
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as missing:
    raise ImportError("ForwardOnlyClassifier needs scikit-learn: pip install 'forward-only[sklearn]'") from missing

import forwardonly as fo
from forwardonly.names import plain
from forwardonly.network.storage import read_config
from forwardonly.rules import ContrastiveRule
from forwardonly.system.precision import choose_device
from forwardonly.training.compatibility import block_that_needs_two

DTYPES = [np.float32, np.uint8]  # other types are converted to float32
CHUNK = 256  # rows scored at a time, always as many, so that a row's scores do not depend on the others


class ForwardOnlyClassifier(ClassifierMixin, BaseEstimator):
    """A multilayer perceptron trained without backpropagation.

    Features of type uint8 are pixels, and are treated as `forwardonly train` and `forwardonly.fit` treat images: the
    same data, rule and options give the same weights. Other features are shifted and scaled together to zero mean and
    unit deviation; if they have different units, put a `StandardScaler` before. Contrastive rules get a column for
    each class in front of the features, for the label code.

    Args:
        rule: name of the learning rule (see `forwardonly.rules.TABLE`).
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
        classes_: the labels, sorted. network_: the `forwardonly.Network`. history_: a row for each epoch of `fit`.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

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

    def fit(self, X: Any, y: Any) -> Self:
        """Trains from scratch on features X (N, D) and labels y (N,).

        Raises:
            ValueError: options or data that make no sense, or labels of one class only.
        """
        X, y = validate_data(self, X, y, dtype=DTYPES)
        check_classification_targets(y)
        self._begin(X, np.unique(y))
        run = fo.fit(self.network_, self._data(X, y), seed=self._seed, device=self.device, **self._training_options())
        self.history_ = run.history
        self.network_.eval()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """One pass over a batch of rows, continuing from what was learned before.

        Args:
            X: as in `fit`; the first batch determines how features are scaled.
            y: as in `fit`.
            classes: all labels that will occur; required in the first call.

        Raises:
            ValueError: as `fit`, or no `classes` in the first call, or different ones later.
        """
        first = not hasattr(self, "network_")
        X, y = validate_data(self, X, y, dtype=DTYPES, reset=first)
        check_classification_targets(y)
        if first:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit.")
            self._begin(X, np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes are {self.classes_.tolist()} since the first call, not {np.unique(classes).tolist()}."
            )
        strange = np.setdiff1d(y, self.classes_)
        if len(strange):
            raise ValueError(f"The label {strange.tolist()[0]!r} is not among the classes {self.classes_.tolist()}.")
        data, options = self._data(X, y), self._training_options()
        self.network_.prepare.fit(data.images)
        if not hasattr(self, "_online"):
            self._online = fo.training.Online(self.network_, seed=self._seed, **options)
        batch_size = fo.training.TrainingConfig.resolve(self.network_.rule, data, options).batch_size
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(self._seed + self._online.steps))
        for chosen in _chunks(order, batch_size, self.network_):
            self._online.learn(data.images[chosen], data.labels[chosen])
        self.network_.eval()
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """The network's score of every class, (N, C); for two classes the second's minus the first's, (N,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The label of each row, (N,)."""
        chosen = self._scores(X).argmax(1)
        labels: np.ndarray = self.classes_[chosen]
        return labels

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the scores at the scale of the rule's loss, (N, C).

        The values rank the classes; `CalibratedClassifierCV` calibrates them.
        """
        scores, network = self._scores(X), self.network_
        scores = scores * (network.rule.score_scale / float(network.readout.weights.sum()))
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def save(self, folder: str | Path) -> None:
        """Writes the fitted classifier to a folder, as safetensors and JSON; nothing is pickled.

        Raises:
            ValueError: the folder cannot be written.
        """
        check_is_fitted(self)
        parameters = {name: value for name, value in self.get_params().items() if name != "random_state"}
        kept = {
            "parameters": plain(parameters),
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "features": self.n_features_in_,
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            "pixels": self._pixels,
            "shift": self._shift,
            "scale": self._scale,
        }
        json.dumps(kept)  # labels that JSON cannot represent raise before anything is written
        fo.save(self.network_, folder, estimator=kept)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The classifier that `save` wrote, ready to predict or to continue with `partial_fit`.

        Raises:
            ValueError: it does not exist, or is damaged.
        """
        config = read_config(folder)
        try:
            kept = config["estimator"]
            classifier = cls(**kept["parameters"])
            classifier.classes_ = np.array(kept["classes"], dtype=np.dtype(kept["classes_dtype"]))
            classifier.n_features_in_ = int(kept["features"])
            if kept["feature_names"]:
                classifier.feature_names_in_ = np.array(kept["feature_names"], dtype=object)
            classifier._shift, classifier._scale = float(kept["shift"]), float(kept["scale"])
            classifier._pixels = bool(kept["pixels"])
        except (KeyError, TypeError) as problem:
            raise ValueError(f"{folder} was not written by ForwardOnlyClassifier.save: {problem!r}.") from None
        classifier._seed = 0
        classifier.network_ = fo.load(folder).to(choose_device(classifier.device))
        return classifier

    def _begin(self, X: np.ndarray, classes: np.ndarray) -> None:
        """Makes a network with fresh weights for features like X."""
        if len(classes) < 2:
            raise ValueError(f"ForwardOnlyClassifier needs at least two classes, y has one class: {classes.tolist()}.")
        rule = fo.rules.make(self.rule, classes=len(classes), **(self.rule_options or {}))
        if not rule.labelled:
            raise ValueError(
                f"The rule {self.rule} learns without labels, so it makes no classifier: train it by fo.fit, and read "
                "the network by fo.probe."
            )
        self.classes_ = classes
        drawn = not isinstance(self.random_state, numbers.Integral)
        self._seed = int(check_random_state(self.random_state).randint(2**31) if drawn else self.random_state)
        self._pixels = X.dtype == np.uint8
        self._shift = 0.0 if self._pixels else float(X.mean(dtype=np.float64))
        self._scale = 255.0 if self._pixels else float(X.std(dtype=np.float64)) or 1.0
        width = X.shape[1] + (len(classes) if isinstance(rule, ContrastiveRule) else 0)
        network = fo.mlp((1, 1, width), self.hidden, rule=rule, dropout=self.dropout, seed=self._seed)
        if not self._pixels:
            network.prepare.fitted.fill_(True)  # features are scaled here, so a run must not standardise them again
        self.network_ = network.to(choose_device(self.device))
        if hasattr(self, "_online"):
            del self._online

    def _training_options(self) -> dict[str, Any]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimiser": self.optimiser,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "precision": self.precision,
        }

    def _data(self, X: np.ndarray, y: np.ndarray) -> fo.data.Images:
        """Rows and labels in the form that training takes."""
        kind = fo.data.Images if self._pixels and X.dtype == np.uint8 else fo.data.Features
        indices = torch.from_numpy(np.searchsorted(self.classes_, y))
        return kind(self._rows(X), indices, tuple(str(each) for each in self.classes_), "X")

    def _rows(self, X: np.ndarray) -> Tensor:
        """Features (N, D) as the network's input, (N, 1, 1, D), behind blank columns if a label code needs them."""
        if self._pixels and X.dtype == np.uint8:
            rows = torch.from_numpy(X)
        else:
            rows = torch.from_numpy((X.astype(np.float32) - np.float32(self._shift)) / np.float32(self._scale))
        blank = self.network_.shape[2] - rows.shape[1]
        return torch.nn.functional.pad(rows, (blank, 0)).view(len(rows), 1, 1, -1)

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
