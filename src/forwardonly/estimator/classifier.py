"""`ForwardOnlyClassifier`: a perceptron that learns classes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

import forwardonly as fo
from forwardonly.estimator.perceptron import Perceptron


class ForwardOnlyClassifier(ClassifierMixin, Perceptron):
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

    classes_: np.ndarray

    def fit(self, X: Any, y: Any) -> Self:
        """Trains from scratch on features X (N, D) and labels y (N,).

        Raises:
            ValueError: options or data that make no sense, or labels of one class only.
        """
        X, y = self._read(X, y)
        check_classification_targets(y)
        self._classes(X, np.unique(y))
        return self._train(self._data(X, y))

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
        X, y = self._read(X, y, first=first)
        check_classification_targets(y)
        if first:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit.")
            self._classes(X, np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"classes are {self.classes_.tolist()} since the first call, not {np.unique(classes).tolist()}."
            )
        strange = np.setdiff1d(y, self.classes_)
        if len(strange):
            raise ValueError(f"The label {strange.tolist()[0]!r} is not among the classes {self.classes_.tolist()}.")
        return self._learn(self._data(X, y))

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
        scores, network = torch.from_numpy(self._scores(X)), self.network_
        mean = network.readout.mean(scores.to(network.device))
        shares: np.ndarray = torch.softmax(network.rule.score_scale * mean, dim=1).cpu().numpy()
        return shares

    def _classes(self, X: np.ndarray, classes: np.ndarray) -> None:
        """Begins anew for these classes."""
        if len(classes) < 2:
            raise ValueError(f"ForwardOnlyClassifier needs at least two classes, y has one class: {classes.tolist()}.")
        self._begin(X, len(classes))
        self.classes_ = classes

    def _kept(self) -> dict[str, Any]:
        times = self.classes_.dtype.kind in "mM"  # JSON has none: their numbers since 1970, in the type's own unit
        kept = self.classes_.astype(np.int64) if times else self.classes_
        return {"classes": kept.tolist(), "classes_dtype": self.classes_.dtype.str}

    def _restore(self, kept: dict[str, Any]) -> None:
        dtype = np.dtype(kept["classes_dtype"])
        read = np.array(kept["classes"], dtype=np.int64 if dtype.kind in "mM" else dtype)
        self.classes_ = read.astype(dtype)

    def _data(self, X: np.ndarray, y: np.ndarray) -> fo.data.Images:
        """Rows and labels in the form that training takes."""
        kind = fo.data.Images if self._pixels and X.dtype == np.uint8 else fo.data.Features
        indices = torch.from_numpy(np.searchsorted(self.classes_, y))
        return kind(self._rows(X), indices, tuple(str(each) for each in self.classes_), "X")
