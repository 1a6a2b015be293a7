"""Exported training steps of numbers, of several labels and of models that were cut; what has no step is refused."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import forwardonly as fo
from forwardonly.export import export_network, export_training_step, training_step
from forwardonly.network.answers import alike

SGD = {"optimiser": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01}
RATE = torch.tensor(0.05)
INPUTS = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
NUMBERS = torch.stack([(INPUTS[:, 0] * 2).round() + 50, INPUTS[:, 1] * 3], 1)
PIXELS = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TEN = fo.rules.Projection(classes=10)


def learned(net, batches):
    """A network and its exported step after the same batches: (what `Online` made of it, the step, its state)."""
    ours = copy.deepcopy(net)
    online = fo.training.Online(ours, precision="fp32", **SGD)
    step = training_step(net, batch_size=len(batches[0][1]), **SGD)
    state = step.state
    for inputs, targets in batches:
        losses, state = step(state, images=inputs, labels=targets, learning_rate=RATE)
        torch.testing.assert_close(losses, online.learn(inputs, targets), rtol=1e-5, atol=1e-6)
    expected = ours.state_dict()
    for name in state:
        if name in expected:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6)
    counted = {name for name in expected if name.endswith("num_batches_tracked")}
    moved = {name for name, before in net.state_dict().items() if not torch.equal(before, expected[name])}
    assert moved and moved <= set(state) | counted
    return ours.eval(), step, state


def predicted(net, step, state, inputs, folder):
    """What the exported prediction graph says with the weights of a state."""
    export_training_step(net, step, folder, format="torch-export")
    weights = {name: state[name] for name in state if name in net.state_dict()}
    return torch.export.load(folder / "prediction.pt2").module()(inputs, weights)[0]


def perceptron(targets, values, rule="projection"):
    rule = fo.rules.make(rule, classes=2, targets=targets)
    net = fo.mlp((4,), [8, 8], rule=rule, standardise=True)
    fo.fit(net, (INPUTS, values), epochs=1)
    return net


@pytest.mark.parametrize(
    ("targets", "values", "rule"),
    [
        ("number", NUMBERS, "projection"),
        ("labels", (NUMBERS > 1).float(), "projection"),
        pytest.param("number", NUMBERS, "auxiliary", marks=pytest.mark.slow),
        pytest.param("labels", (NUMBERS > 1).float(), "auxiliary", marks=pytest.mark.slow),
    ],
)
def test_numbers_and_several_labels_are_learned_as_by_the_library(targets, values, rule, tmp_path):
    net = perceptron(targets, values, rule)
    ours, step, state = learned(net, list(zip(INPUTS.split(16), values.split(16), strict=True)))
    said = predicted(net, step, state, INPUTS, tmp_path)
    torch.testing.assert_close(said, ours(INPUTS), rtol=1e-5, atol=1e-5)


def test_a_step_takes_no_targets_of_another_kind():
    net = perceptron("number", NUMBERS)
    step = training_step(net, batch_size=16, **SGD)
    given = {"images": INPUTS[:16], "labels": NUMBERS[:16], "learning_rate": RATE}
    step(step.state, **given)
    wanted = r"labels must be float32 of shape \(16, 2\), not "
    with pytest.raises(ValueError, match=wanted + r"int64 of shape \(16,\)"):  # which would be broadcast
        step(step.state, **{**given, "labels": NUMBERS[:16, 0].long()})
    with pytest.raises(ValueError, match=wanted + r"float32 of shape \(8, 2\)"):
        step(step.state, **{**given, "labels": NUMBERS[:8]})
    with pytest.raises(ValueError, match=r"learning_rate is missing: it must be float32 of shape \(\)"):
        step(step.state, images=INPUTS[:16], labels=NUMBERS[:16])


def test_an_exported_network_says_the_numbers_that_the_library_says(tmp_path):
    net = perceptron("number", NUMBERS)
    (path,) = export_network(net, tmp_path, format="torch-export")
    said, _ = torch.export.load(path).module()(INPUTS)
    torch.testing.assert_close(said, net(INPUTS))  # the blocks' mean, not their sum


def test_what_an_export_predicts_is_compared_by_the_kind_of_target():
    scores, others = torch.tensor([[3.0, 1.0], [2.0, 1.0]]), torch.tensor([[3.0, 1.0], [2.0, -1.0]])
    numbers, labels = perceptron("number", NUMBERS), perceptron("labels", (NUMBERS > 1).float())
    classes = fo.mlp((4,), [8], rule=fo.rules.Projection(classes=2))
    assert alike(classes, scores, others).tolist() == [True, True]
    assert alike(labels, scores, others).tolist() == [True, False]
    assert alike(numbers, scores, others).tolist() == [True, False]
    assert alike(numbers, scores, scores + 0.01 * numbers.units.std).all()


class Centred(nn.Module):
    """Takes away a mean that it moves itself; buffers that are replaced, written into, and left as they are."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("share", torch.tensor(0.5))
        self.idle = nn.BatchNorm1d(8, affine=False)  # which is never called

    def forward(self, signal):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * signal.detach().mean()
            self.steps += 1
        return signal - self.share * self.mean


def cut(model, example=PIXELS[:2], rule=TEN):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large blocks
        net = fo.localize(model, rule, example)
    net.prepare.fit(PIXELS)
    return net


def test_a_model_in_place_learns_with_its_running_statistics(tmp_path):
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), Centred(), nn.ReLU())
    net = cut(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 10)))
    labels = torch.arange(48) % 10
    ours, step, state = learned(net, list(zip(PIXELS.split(16), labels.split(16), strict=True)))
    assert {name for name in state if not name.endswith(".momentum")} == {
        *(name for name, _ in net.named_parameters() if name.startswith("blocks.") and ".rule." in name),
        *(f"walled.model.{layer}.{name}" for layer in (0, 1, 3) for name in ("weight", "bias")),
        *("walled.model.1.running_mean", "walled.model.1.running_var", "walled.model.4.mean", "walled.model.4.steps"),
    }
    said = predicted(net, step, state, PIXELS[:5], tmp_path)
    torch.testing.assert_close(said, ours(PIXELS[:5]), rtol=1e-5, atol=1e-5)
    net.load_state_dict({**net.state_dict(), **{name: state[name] for name in state if name in net.state_dict()}})
    torch.testing.assert_close(net.eval()(PIXELS), ours(PIXELS), rtol=1e-5, atol=1e-5)


def flat(*middle):
    """A perceptron with something in its middle."""
    ends = (nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    return nn.Sequential(nn.Flatten(), *ends[:2], *middle, *ends[2:])


class Call(nn.Module):
    """Any function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, signal):
        return self.function(self, signal)


class Recurrent(nn.Module):
    """Tokens through stacked recurrent layers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.stack = nn.GRU(8, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.stack(self.embedding(tokens))[0][:, -1])


class Sum(nn.Module):
    """A model of two inputs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))

    def forward(self, left, right):
        return self.inner(left + right)


WORDS = torch.zeros(2, 5, dtype=torch.int64)
LANGUAGE = (nn.Embedding(9, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 9))
REFUSED = {
    "tokens": (
        lambda: cut(nn.Sequential(*LANGUAGE), WORDS, fo.rules.Projection(classes=9, targets="token")),
        "An exported training step learns classes or several labels at once or numbers, not tokens.",
    ),
    "inputs": (
        lambda: cut(Sum(), {"left": INPUTS[:2], "right": INPUTS[:2]}),
        "An exported training step takes one tensor of inputs, not several: put the model into a module that takes",
    ),
    "units": (
        lambda: fo.mlp((4,), [8], rule=fo.rules.Projection(classes=1, targets="number")),
        "The network does not know its numbers' units: call network.units.fit(numbers) first.",
    ),
    "random": (
        lambda: cut(flat(Call(lambda self, signal: F.dropout(signal, 0.5, self.training)))),
        "The model draws random numbers (aten.bernoulli",
    ),
    "branch": (
        lambda: cut(flat(Call(lambda self, signal: signal if signal.mean() > 0 else 2 * signal))),
        "The model cannot be written as a graph: ",
    ),
    "average": (
        lambda: cut(flat(nn.BatchNorm1d(8, momentum=None))),
        "An exported training step counts no batches: give the batch norm walled.model.3 a momentum.",
    ),
    "series": (
        lambda: cut(
            nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 9)),
            torch.zeros(2, 3, 8),
        ),
        "The training step of convolutions can be exported where they have two dimensions alone.",
    ),
    "stack": (
        lambda: cut(Recurrent(), WORDS, fo.rules.Projection(classes=3)),
        "The step cannot be exported, for a graph would keep walled.model.stack.weight_ih_l",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_step_is_refused_in_one_sentence(case):
    make, sentence = REFUSED[case]
    with pytest.raises(ValueError) as told:
        training_step(make(), batch_size=4, **SGD)
    assert str(told.value).startswith(sentence)
    assert "\n" not in str(told.value)
