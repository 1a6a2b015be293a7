"""ForwardOnlyClassifier beside scikit-learn's MLPClassifier on MNIST, in one run: python benchmarks/sklearn_mnist.py

Both get the same pixels, scaled to 0..1, and the same layers. Each trains for a growing number of epochs until its
accuracy on 5,000 held-out training images reaches the goal; the time of that training is compared. Test images are
looked at once, at the end.
"""

import argparse
import json
import platform
import time
import warnings

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import forwardonly as fo
from forwardonly.estimator import ForwardOnlyClassifier

EPOCHS = (1, 2, 3, 5, 8, 12, 18, 27)


def main() -> None:
    """Prints one JSON object: both arms, and the ratio of their times."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--goal", type=float, default=0.975, help="validation accuracy that both must reach")
    options.add_argument("--hidden", type=int, nargs="+", default=[500])
    options.add_argument("--rule", default="hyperspherical")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    train, validation, test = fo.data.load("mnist", validation=5_000)
    assert validation is not None
    sets = [(flat(part), part.labels.numpy()) for part in (train, validation, test)]
    arms = {
        "forwardonly": lambda epochs: ForwardOnlyClassifier(
            chosen.rule, tuple(chosen.hidden), epochs=epochs, batch_size=200, random_state=chosen.seed
        ),
        "scikit-learn": lambda epochs: MLPClassifier(
            tuple(chosen.hidden), max_iter=epochs, batch_size=200, random_state=chosen.seed
        ),
    }
    found = {name: reach(make, sets, chosen.goal) for name, make in arms.items()}
    ours, theirs = (found[name] for name in arms)
    reached = ours["reached"] and theirs["reached"]
    print(
        json.dumps(
            {
                "goal": chosen.goal,
                "time_ratio": ours["seconds"] / theirs["seconds"] if reached else None,
                "arms": found,
                "rule": chosen.rule,
                "hidden": chosen.hidden,
                "seed": chosen.seed,
                "threads": torch.get_num_threads(),
                "machine": platform.processor() or platform.machine(),
                "versions": {"torch": torch.__version__, "scikit-learn": sklearn.__version__},
            },
            indent=2,
        )
    )


def flat(part: fo.data.Images) -> np.ndarray:
    """Pixels (N, 784) from 0 to 1."""
    return part.images.flatten(1).numpy().astype(np.float32) / 255


def reach(make, sets, goal):  # type: ignore[no-untyped-def]
    """The shortest training of the list that reaches the goal on validation, and its time."""
    (X, y), (X_held, y_held), (X_test, y_test) = sets
    for epochs in EPOCHS:
        classifier = make(epochs)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is stopped on purpose
            classifier.fit(X, y)
        seconds = time.perf_counter() - started
        held = classifier.score(X_held, y_held)
        if held >= goal:
            break
    return {
        "epochs": epochs,
        "seconds": seconds,
        "validation_accuracy": held,
        "test_accuracy": classifier.score(X_test, y_test),
        "reached": bool(held >= goal),
    }


if __name__ == "__main__":
    main()
