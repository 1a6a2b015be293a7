"""Where walls stand and what is read there, on models made to show one thing each."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network.localize import LargeBlockWarning
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

LABELS = torch.arange(4) % 2


class Layer(nn.Module):
    """A layer of one part, which stays whole."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        return torch.relu(self.linear(x))


class Stage(nn.Module):
    """Layers below a sequence that is its only part, as timm's stages have them."""

    def __init__(self, layers):
        super().__init__()
        self.blocks = nn.Sequential(*(Layer() for _ in range(layers)))

    def forward(self, x):
        return self.blocks(x)


class Staged(nn.Module):
    """Three stages and a head of any width."""

    def __init__(self, layers, head):
        super().__init__()
        self.one, self.two, self.three = (Stage(count) for count in layers)
        self.head = nn.Linear(16, head)

    def forward(self, x):
        return self.head(self.three(self.two(self.one(x))))


def walls(model, example, **options):
    return list(fo.localize(model, fo.rules.Projection(classes=2), example, **options).walled.walls)


def test_a_large_stage_is_opened_through_its_only_part():
    found = walls(Staged((1, 3, 1), 4), (torch.randn(4, 16),))
    assert found == ["one", "two.blocks.0", "two.blocks.1", "two", "three"]


def test_half_is_of_the_weights_that_blocks_have_without_the_head():
    found = walls(Staged((1, 3, 1), 1000), (torch.randn(4, 16),))
    assert found == ["one", "two.blocks.0", "two.blocks.1", "two", "three"]


def test_a_stage_with_at_most_half_stays_whole():
    assert walls(Staged((2, 2, 2), 1000), (torch.randn(4, 16),)) == ["one", "two", "three"]


class Skip(Stage):
    """Its only part, and a skip around it."""

    def forward(self, x):
        return x + self.blocks(x)


class Skipped(nn.Module):
    """A large stage with a skip that carries a weight past all walls in it."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = Layer(), Skip(3), Layer()
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x):
        return self.three(self.two(self.one(x) + self.bias))


def test_the_wall_behind_a_stage_stands_where_none_in_it_can():
    with pytest.warns(LargeBlockWarning):
        assert walls(Skipped(), (torch.randn(4, 16),)) == ["one", "two", "three"]


class Nested(nn.Module):
    """Passes on patches, folded into the batch's axis, and before or behind them what stands for the whole."""

    def __init__(self, patches_alone):
        super().__init__()
        self.inner, self.outer = Layer(), Layer()
        self.patches_alone = patches_alone

    def forward(self, pair):
        patches, whole = pair
        patches = self.inner(patches)
        whole = self.outer(whole + patches.reshape(len(whole), -1, 16).mean(1))
        return patches if self.patches_alone else (patches, whole)


class Patches(nn.Module):
    """Images (B, 3, 16) -> patches (3 B, 16) and their mean (B, 16), through blocks."""

    def __init__(self, *, patches_alone):
        super().__init__()
        self.blocks = nn.ModuleList([Nested(False), Nested(patches_alone), Nested(False)])
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        signal = x.flatten(0, 1), x.mean(1)
        for block in self.blocks:
            signal = block(signal)
            signal = signal if isinstance(signal, tuple) else (signal, x.mean(1))
        return self.head(signal[1])


def step(network, inputs):
    updates = [Update(block, TrainingConfig()) for block in network.row]
    return whole_step(network, updates, Batch(network.prepare(inputs), LABELS), Context("fp32"))


def test_of_a_tuple_the_tensor_with_the_batch_is_read(tmp_path):
    """The first has a row for each patch, and as many rows as labels would be needed."""
    model, inputs = Patches(patches_alone=False), (torch.randn(4, 3, 16),)
    network = fo.localize(model, fo.rules.Projection(classes=2), inputs)
    assert list(network.walled.walls) == ["blocks.0", "blocks.1", "blocks.2"]
    assert [layout.place for block in network.row for layout in block.reading.layouts] == [1, 1, 1]
    assert step(network, inputs).isfinite().all()
    fo.save(network, tmp_path)
    again = fo.load(tmp_path, model=Patches(patches_alone=False)).eval()
    assert torch.equal(again.scores(inputs), network.eval().scores(inputs))


def test_what_is_shown_of_a_tuple_is_the_tensor_with_the_batch():
    """As `Network.read` gives it, and as the features of `fo.Front`."""
    model, inputs = Patches(patches_alone=False), (torch.randn(4, 3, 16),)
    network = fo.localize(model, fo.rules.Projection(classes=2), inputs).eval()
    signal, expected = (inputs[0].flatten(0, 1), inputs[0].mean(1)), []
    with torch.no_grad():
        for block in model.eval().blocks:
            signal = block(signal)
            expected.append(signal[1])
    shown = network.read(network.prepare(inputs))
    assert all(torch.equal(*pair) for pair in zip(shown, expected, strict=True))
    assert torch.equal(fo.Front(network, 2)(inputs), expected[1])


class TimesFirst(nn.Module):
    """(B, T, 16) through layers that take times first, as older models of sequences do."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = Layer(), Layer(), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.two(self.one(x.transpose(0, 1))).mean(0))


def test_what_is_shown_has_the_batch_in_front():
    inputs = (torch.randn(4, 3, 16),)
    network = fo.localize(TimesFirst(), fo.rules.Projection(classes=2), inputs).eval()
    assert [layout.batch for block in network.row for layout in block.reading.layouts] == [1, 1]
    assert [tuple(own.shape) for own in network.read(network.prepare(inputs))] == [(4, 3, 16)] * 2


def test_a_wall_without_the_batch_falls_and_is_refused_by_name():
    model, inputs = Patches(patches_alone=True), (torch.randn(4, 3, 16),)
    network = fo.localize(model, fo.rules.Projection(classes=2), inputs)
    assert list(network.walled.walls) == ["blocks.0", "blocks.2"]
    trained = {id(weight) for block in network.row for weight in block.body.parameters()}
    assert {id(weight) for weight in model.blocks[1].inner.parameters()} <= trained
    assert step(network, inputs).isfinite().all()
    with pytest.raises(ValueError, match=r"Block 1, which ends with 'blocks.1', cannot be read: no single axis of its"):
        walls(model, inputs, blocks=["blocks.0", "blocks.1", "blocks.2"])


def test_a_model_that_passes_on_no_batch_is_refused():
    class Folded(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = Layer(), Layer(), Layer()

        def forward(self, x):
            return self.three(self.two(self.one(x.flatten(0, 1))).reshape(len(x), -1, 16).mean(1))

    with pytest.raises(ValueError, match="leaves one block, trained by backprop: each block is to give a tensor"):
        walls(Folded(), (torch.randn(4, 3, 16),))


class Dropping(nn.Module):
    """Leaves out its middle layer in the training calls that are named, as layer drop does."""

    left_out = ()

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = Layer(), Layer(), Layer()
        self.calls = -1

    def forward(self, x):
        self.calls += self.training
        x = self.one(x)
        x = x if self.calls in self.left_out else self.two(x)
        return self.three(x)


@pytest.mark.parametrize(("left_out", "fell"), [((0,), 3), ((9,), 3), ((7, 8, 9), 2)])
def test_the_walk_judges_a_block_by_the_steps_in_which_its_layer_ran(left_out, fell):
    torch.manual_seed(0)
    walk = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "models.py"))
    model = Dropping()
    network = fo.localize(model, fo.rules.Projection(classes=4), (torch.randn(4, 16),))
    model.left_out, model.calls = left_out, -1
    assert walk["lowering"](network, lambda count: (torch.randn(count, 16),), rate=1e-2) == [fell, 3]


class Residual(nn.Module):
    """A wide layer pair with a skip that has weights, as the last stage of a small ResNet."""

    def __init__(self, width, wide):
        super().__init__()
        self.first, self.second = nn.Linear(width, wide), nn.Linear(wide, wide)
        self.skip = nn.Linear(width, wide)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))) + self.skip(x)


@pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")
@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_a_number_of_blocks_is_kept_where_a_skip_goes_around_the_evenest_wall(blocks):
    model = nn.Sequential(Layer(), Layer(), nn.Sequential(Residual(16, 64)), nn.Linear(64, 3))
    assert len(walls(model, torch.randn(4, 16), blocks=blocks)) == blocks
