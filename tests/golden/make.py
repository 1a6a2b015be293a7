"""Makes the golden run folders: `python tests/golden/make.py`, or with the names of some kinds as arguments.

They are committed, and `tests/test_golden.py` reads them: every later version must load a run saved by this one and
predict the same. So make them anew only when the format of run folders, and its number, has changed on purpose; the
previous ones are then of an older version, and move to `older/`, which nothing here touches.

- `one-pass`, `contrastive` (with its label classifier), `convolutional`, `best`: finished runs of the command line.
- `interrupted`: `one-pass` once more, stopped by Ctrl-C; it has a checkpoint and no model.
- `estimator`: a classifier that `ForwardOnlyClassifier.save` wrote.
- `images.npz`, `expected.json`: a few test images, and each network's output for them.
- `older/`: some of these as the version before format 2 wrote them, never made anew.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import forwardonly as fo
from forwardonly.estimator import ForwardOnlyClassifier

HERE = Path(__file__).parent
SMALL = ["--data", "digits", "--precision", "fp32", "--seed", "1"]
MLP = ["--hidden", "16", "16", "--learning-rate", "0.01", "--batch-size", "64", "--epochs", "20"]
CONV = ["--body", "conv", "--depth", "3", "--channels", "6", "--batch-size", "64", "--epochs", "5"]
RUNS = {
    "one-pass": ["--rule", "hyperspherical", *MLP],
    "contrastive": ["--rule", "ff", "--rule.negatives", "hard", "--rule.predict", "softmax", *MLP],
    "convolutional": ["--rule", "projection", "--rule.features", "24", *CONV],
    "best": ["--rule", "best", "--rule.channels", "4", *CONV],
}
KINDS = (*RUNS, "interrupted", "estimator")
IMAGES = 24


def forwardonly(*words):
    return [sys.executable, "-m", "forwardonly", *words]


def train(kind):
    """A finished run, without the checkpoints that it no longer needs."""
    subprocess.run(forwardonly("train", *SMALL, *RUNS[kind], "--out", kind, "--json"), cwd=HERE, check=True)
    shutil.rmtree(HERE / kind / "checkpoint")


def interrupt(kind="interrupted"):
    """A run that Ctrl-C has stopped after an epoch or a few, with its newest checkpoint alone."""
    process = subprocess.Popen(forwardonly("train", *SMALL, *RUNS["one-pass"], "--out", kind, "--json"), cwd=HERE)
    while not (HERE / kind / "metrics.jsonl").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    if process.wait() != 130:
        raise SystemExit("the run was over before it could be stopped: try again")
    for old in sorted((HERE / kind / "checkpoint").iterdir())[:-1]:
        old.unlink()


def estimate(kind="estimator"):
    X, y = load_digits(return_X_y=True)
    names = np.array([f"digit {label}" for label in y])
    options = {"hidden": (16,), "epochs": 10, "learning_rate": 0.02, "precision": "fp32", "random_state": 0}
    ForwardOnlyClassifier(**options).fit(X, names).save(HERE / kind)


def expect():
    """Keeps images that every network is sure of, so that another processor's rounding changes no class, and what
    the networks say to them."""
    test = fo.data.load("digits").test
    networks = {kind: fo.load(HERE / kind) for kind in KINDS if kind != "interrupted"}
    sure = torch.ones(len(test), dtype=torch.bool)
    said = {}
    for kind, network in networks.items():
        blank = network.shape[2] != test.shape[2]  # the classifier takes rows, shifted and scaled by itself
        said[kind] = _rows_said(test) if blank else network(test.images)
        best = said[kind].topk(2).values
        sure &= (best[:, 0] - best[:, 1]) > 0.02 * said[kind].std()
    chosen = sure.nonzero()[:IMAGES, 0]
    images = test.subset(chosen)
    np.savez_compressed(HERE / "images.npz", images=images.images.numpy(), labels=images.labels.numpy())
    expected = {}
    for kind, network in networks.items():
        scores = said[kind][chosen]
        expected[kind] = {
            "classes": scores.argmax(1).tolist(),
            "scores": [[round(float(score), 4) for score in row] for row in scores[:4]],
        }
        if kind in RUNS:
            found = fo.evaluate(network, images, precision="fp32")
            expected[kind] |= {"accuracy": found.accuracy, "block_accuracy": found.block_accuracy}
    lines = [f"{json.dumps(kind)}: {json.dumps(found)}" for kind, found in expected.items()]
    (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rows_said(images):
    classifier = ForwardOnlyClassifier.load(HERE / "estimator")
    return torch.from_numpy(classifier.decision_function(images.images.flatten(1).numpy() / 255 * 16))


def main(kinds):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for kind in kinds:
        shutil.rmtree(HERE / kind, ignore_errors=True)
        train(kind) if kind in RUNS else {"interrupted": interrupt, "estimator": estimate}[kind]()
    expect()
    for path in sorted(HERE.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:7,} {path.relative_to(HERE)}")


if __name__ == "__main__":
    main(sys.argv[1:] or KINDS)
