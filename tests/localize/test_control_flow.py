"""Models that decide by what they are given which of their modules run."""

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network.localize import LargeBlockWarning, UnreachedWarning

pytestmark = pytest.mark.filterwarnings(f"ignore::{LargeBlockWarning.__module__}.LargeBlockWarning")

LABELS = torch.arange(60) % 3


class Gate(nn.Module):
    """Leaves out `two` for small inputs, and `three` for very large ones."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.head = (
            nn.Linear(6, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 12),
            nn.Linear(12, 3),
        )

    def forward(self, x):
        x = self.one(x).relu()
        if x.mean() > 0.3:
            x = self.two(x).relu()
        if x.mean() < 100:
            x = self.three(x).relu()
        return self.head(x)


def inputs():
    return torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


def localize(example, rule=None, **options):
    torch.manual_seed(0)
    return fo.localize(Gate(), rule or fo.rules.Projection(classes=3), example, **options)


def ran(network, x):
    """The scores of the blocks that run, by their indices."""
    score = lambda block, activation, passed: block.rule.every_score(activation)  # noqa: E731
    return network.eval().seen(network.prepare(x), score)


@pytest.mark.parametrize(("size", "blocks"), [(10, {0, 1, 2}), (0.01, {0, 2}), (1e5, {0, 1})])
@pytest.mark.parametrize("readout", ["sum", "skip-first", "last"])
def test_blocks_that_run_score_and_the_others_have_no_say(size, blocks, readout):
    x = inputs()
    network = localize(x[:3] * 10, readout=readout)
    fo.fit(network, (x * 10, LABELS), epochs=1)
    own, weights = ran(network, x * size), network.readout.weights
    assert own.keys() == blocks
    if sum(weights[index] for index in blocks) == 0:  # the last block, which alone is read, is left out
        weights = torch.eye(3)[max(blocks)]
    joined = sum(weights[index] * own[index] for index in blocks)
    assert torch.equal(network.predict(x * size), joined.argmax(1))
    mean = network.readout.mean(network(x * size))
    torch.testing.assert_close(mean, joined / sum(weights[index] for index in blocks))
    assert network.scores(x * size).shape == (3, 60, 3)


def test_numbers_are_the_mean_of_the_blocks_that_run():
    x = inputs()
    network = localize(x[:3] * 10, fo.rules.Projection(classes=1, targets="number"))
    fo.fit(network, (x * 10, x.sum(1) + 50), epochs=1)
    own = ran(network, x * 0.01)
    expected = network.units((own[0] + own[2]) / 2).squeeze(1)
    torch.testing.assert_close(network.predict(x * 0.01), expected)


def test_figures_on_data_that_take_another_path_are_not_lost():
    x = inputs()
    network = localize(x[:3] * 10)
    run = fo.fit(network, (x * 10, LABELS), validation=(x * 0.01, LABELS), test=(x * 1e5, LABELS), epochs=2)
    assert "notes" not in run.result and all("validation_accuracy" in row for row in run.history)
    assert run.result["test_accuracy"] == fo.evaluate(network, (x * 1e5, LABELS)).accuracy


def test_what_needs_every_block_says_which_one_is_left_out():
    network = localize(inputs()[:3] * 10)
    with pytest.raises(ValueError, match="The model leaves out block 1 for these inputs"):
        network.each(inputs() * 0.01, lambda block, activation, passed: activation)
    network.walled.forward = lambda given: given  # a model that does nothing
    with pytest.raises(ValueError, match="leaves out every block"):
        network.predict(inputs())


def test_weights_that_the_example_does_not_reach_are_named(tmp_path):
    """Such a module may run in training, and does not learn."""
    x = inputs()
    with pytest.warns(UnreachedWarning, match="does not reach the weights of 'two', so no block learns them"):
        network = localize(x[:3] * 0.001)
    before = network.model.two.weight.clone()
    with pytest.warns(fo.training.RunWarning, match="weights of 'two', so no block"):
        run = fo.fit(network, (x * 5, LABELS), epochs=1, out=tmp_path)
    assert torch.equal(network.model.two.weight, before)
    assert any("'two'" in note for note in run.result["notes"])
    again = fo.load(tmp_path, model=Gate())
    assert again.unreached == ["two"]
    again.model.two.requires_grad_(False)
    assert again.unreached == []


def test_modules_are_named_by_the_largest_that_is_not_reached():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
            self.spare = nn.Sequential(nn.Linear(6, 12), nn.Sequential(nn.Linear(12, 12)))
            self.part = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)])
            self.scale = nn.Parameter(torch.ones(()))
            self.frozen = nn.Linear(3, 3).requires_grad_(False)

        def forward(self, x):
            return self.part[1](self.body(x)).relu()

    with pytest.warns(UnreachedWarning, match="weights of 'scale', 'spare', 'part.0', so"):
        network = fo.localize(Unused(), fo.rules.Projection(classes=3), inputs()[:3])
    assert network.unreached == ["scale", "spare", "part.0"]


def test_nothing_is_said_where_every_weight_is_reached_or_left_out_on_purpose(recwarn):
    assert localize(inputs()[:3] * 10).unreached == []  # the head is behind the last wall
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    tied[2].weight = tied[0].weight
    fo.localize(tied, fo.rules.Projection(classes=3), inputs()[:3])
    assert not [each for each in recwarn if issubclass(each.category, UnreachedWarning)]
