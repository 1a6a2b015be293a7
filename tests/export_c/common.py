"""What the tests of the training step in C share: compilers, nets, data, and the same steps in Python."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.feed import train_label_classifier
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
SANITISED = [*STRICT, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
CALLED = {"expf", "logf", "sqrtf", "floorf", "memcpy", "memset", "memcmp"}  # of the C library
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed (Debian: gcc)")
SGD = {"optimiser": "sgd", "learning_rate": 0.01}
PLAIN, HEAVY = {"momentum": 0.0}, {"momentum": 0.9, "weight_decay": 0.01}
FLAT, MAPS = (1, 6, 6), (3, 16, 16)
MLP, CNN = fo.bodies.MLP(hidden=(24, 20)), fo.bodies.CNN(width=0.1)
DEEP = fo.bodies.MLP(hidden=(24, 20, 16))
SEPARABLE = fo.bodies.Separable(channels=(6, 10, 8), pools=1)
SHAPES = {MLP: FLAT, DEEP: FLAT, CNN: MAPS, SEPARABLE: MAPS}


def sanitised(compiler):
    """The compiler's flags; skips the test where the compiler or its sanitisers are not installed."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed (Debian: {compiler})")
    trial = subprocess.run(
        [compiler, "-fsanitize=address,undefined", "-x", "c", "-", "-o", "/dev/null"],
        input="int main(void) { return 0; }",
        text=True,
        capture_output=True,
    )
    if trial.returncode:
        pytest.skip(f"{compiler} has no sanitisers here (Debian: libclang-rt-dev for clang)")
    return SANITISED


def random_images(shape, count=96, classes=4):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return fo.data.Images(pixels, labels, tuple("abcd"[:classes]), "random")


def random_features(count=64):
    generator = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(count, 5, 1, 8, generator=generator) - 5
    return fo.data.Features(values, torch.arange(count) % 4, tuple("abcd"), "features")


def build(rule, body, data, **options):
    net = fo.build(body, data.shape, rule=fo.rules.make(rule, classes=4, **options))
    net.prepare.fit(data.images)
    return net


def xorshift32(state):
    """The generator of the C file, written from Marsaglia's paper (2003, Xorshift RNGs, the triple 13, 17, 5)."""
    while True:
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        yield state


def train_in_python(net, data, batch, steps, **options):
    """The library's own step; wrong labels are drawn as the C file draws them. Returns the last losses."""
    net.train()
    config = TrainingConfig.resolve(net.rule, given=options)
    updates, draws = [Update(block, config) for block in net.row], xorshift32(1)
    classifier = net.label_classifier
    to_classifier = None if classifier is None else Update(classifier, config)
    for k in range(steps):
        chosen = torch.arange(k * batch, (k + 1) * batch) % len(data)
        images, labels, wrong = data.images[chosen], data.labels[chosen], None
        if to_classifier is not None:
            with torch.no_grad():
                logits = classifier(net.read(net.prepare(images))).sum(0) if gradients_add_up(net, batch) else None
            learned = train_label_classifier(net, to_classifier, images, labels, "fp32")
            logits = learned if logits is None else logits
        if isinstance(net.rule, fo.rules.ForwardForward):
            uniform = net.rule.negatives == "uniform"
            wrong = torch.tensor(
                [
                    (label + 1 + next(draws) % (net.classes - 1)) % net.classes
                    if uniform
                    else hard_label(label, logits[row], next(draws))
                    for row, label in enumerate(labels.tolist())
                ]
            )
        given = Batch(net.present(images, labels, wrong=wrong), labels)
        losses = whole_step(net, updates, given, Context("fp32"))
    return losses


def gradients_add_up(net, batch):
    """Whether C learns a batch example by example; then it draws labels from what was learned before the batch."""
    return batch > 1 and not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


def hard_label(label, logits, number):
    """The wrong label that a random number of 32 bits, of which 24 count, draws from softmax(logits)."""
    chances = torch.softmax(logits.double(), 0).clamp_min(1e-6)
    chances[label] = 0.0
    reached = torch.cumsum(chances, 0)
    return int(torch.nonzero(reached > (number >> 8) / 2**24 * reached[-1])[0])


def train_in_c(host, data, batch, steps):
    chosen = np.arange(steps * batch) % len(data)
    assert set(host.learn(data.images.numpy()[chosen], data.labels.numpy()[chosen])) == {"ok"}


def check_memory(source, header):
    """The header's bytes are those of the compiled file, and the file calls nothing but what CALLED has."""
    made = source.with_suffix(".o")
    # -O0, for the optimiser drops variables that are only written
    subprocess.run(["gcc", "-std=c99", "-O0", "-c", source, "-o", made], check=True)
    listed = subprocess.run(["nm", "-S", made], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    held = sum(int(row[1], 16) for row in rows if len(row) == 4 and row[2] in "bBdD")
    text = header.read_text()
    assert int(re.search(r"#define FO_STATIC_BYTES (\d+)", text)[1]) == held
    parts = [int(each.replace(",", "")) for each in re.findall(r"^ \* +([\d,]+)  ", text, flags=re.MULTILINE)]
    assert sum(parts[:-1]) == parts[-1] == held
    assert {row[1] for row in rows if row[0] == "U"} <= CALLED | {"_GLOBAL_OFFSET_TABLE_"}
