"""Blocks of a model that `localize` cut, called alone: the same learning as in place, or a reason why not."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardonly as fo
from forwardonly.data.taking import take
from forwardonly.network.signal import tensors_in
from forwardonly.system import mapped
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.memory import budget
from forwardonly.training.memory.offload import Offload
from forwardonly.training.step import Context, train_step, train_step_in_place
from forwardonly.training.update import Update

from .models import LABELS, maps, series
from .traced import MODELS, LongMemory, ResNet, Texts, UNet, ViT, emitted, localize, tokens

pytestmark = pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")


@pytest.fixture(params=MODELS)
def case(request):
    return MODELS[request.param]


def learned(step, network, example, steps=4):
    """The losses of some steps, and the state after them."""
    config = TrainingConfig(learning_rate=1e-2)
    network.train()
    updates = [Update(block, config) for block in network.row]
    inputs = example()
    losses = [step(network, updates, Batch(network.prepare(inputs), LABELS), Context("fp32")) for _ in range(steps)]
    return torch.stack(losses), network.state_dict()


def alone(network, updates, batch, context):
    return train_step(network.row, updates, batch, context)[0]


def test_steps_of_blocks_alone_are_those_in_place_to_the_bit(case):
    """Losses, weights and running statistics; the blocks are wholly called alone."""
    losses, state = learned(train_step_in_place, localize(*case), case[1])
    found, after = learned(alone, emitted(*case), case[1])
    assert torch.equal(found, losses) and (losses[0] - losses[-1]).abs().min() > 0
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], own) for name, own in state.items())


def test_no_gradient_crosses_from_block_to_block(case):
    make, example = case
    network = emitted(make, example).train()
    signal, losses = network.prepare(example()), []
    for block in network.row:
        activation, loss, _ = block.judge(signal, LABELS)
        signal = block.pass_on(activation, signal)
        assert not any(tensor.requires_grad for tensor in tensors_in(signal))
        losses.append(loss)
    assert signal == ()
    for index, loss in enumerate(losses):
        network.zero_grad(set_to_none=True)
        loss.backward()
        reached = [[weight.grad is not None for weight in block.body.parameters()] for block in network.row]
        assert all(reached[index]) and not any(any(own) for number, own in enumerate(reached) if number != index)


def test_the_emitted_weights_are_the_models_own_and_nothing_more_is_saved(case):
    network, plain = emitted(*case), localize(*case)
    assert network.state_dict().keys() == plain.state_dict().keys()
    own = {id(weight) for weight in network.model.parameters()}
    for block in network.row:
        (module,) = block.alone
        assert {id(weight) for weight in module.parameters()} <= own
        assert {id(weight) for weight in block.body.parameters()} <= {id(weight) for weight in module.parameters()}
    network.keep_in_place()
    assert network.in_place and not any(block.alone for block in network.row)
    assert not any(module._forward_pre_hooks for module in network.model.modules())
    assert torch.equal(network.eval().scores(case[1]()), plain.eval().scores(case[1]()))


def test_contrastive_blocks_pass_on_what_they_do_in_place():
    options = {"rule": fo.rules.ForwardForward(classes=4, negatives="uniform", predict="goodness")}
    network, other = emitted(UNet, maps, **options), localize(UNet, maps, **options)
    both = torch.cat([maps(), maps().flip(0)])

    def step(own, run):
        own.train()
        updates = [Update(block, TrainingConfig(learning_rate=1e-2)) for block in own.row]
        return torch.stack([run(own, updates, Batch(both, LABELS), Context("fp32")) for _ in range(3)])

    assert torch.equal(step(network, alone), step(other, train_step_in_place))


OPTIONS = {"epochs": 2, "batch_size": 16, "precision": "fp32", "learning_rate": 3e-3}


@pytest.mark.parametrize("make", [ResNet, ViT, UNet])
def test_two_workers_end_in_the_bits_of_one(make, images):
    one, two = localize(make, maps), localize(make, maps)
    fo.fit(one, images, **OPTIONS)
    run = fo.fit(two, images, validation=images, workers=2, **OPTIONS)
    assert two.in_place and run.history[-1]["validation_accuracy"] is not None
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


@pytest.mark.parametrize("options", [{"workers": 2}, {"schedule": "greedy"}], ids=str)
def test_inputs_by_name_are_taken(options):
    texts = {name: part.repeat(4, 1) for name, part in tokens().items()}
    network = localize(Texts, tokens)
    fo.fit(network, (texts, LABELS.repeat(4)), **{**OPTIONS, **options, "batch_size": 6})
    plain = localize(Texts, tokens)
    fo.fit(plain, (texts, LABELS.repeat(4)), **{**OPTIONS, "batch_size": 6})
    assert torch.equal(network.model.one.weight, plain.model.one.weight)


def test_greedy_training_of_a_model_is_training_of_its_first_blocks(images):
    """The first block is done before the second begins, so it learns as when all learn at once."""
    greedy, all_at_once = localize(UNet, maps), localize(UNet, maps)
    run = fo.fit(greedy, images, schedule="greedy", **OPTIONS)
    fo.fit(all_at_once, images, **OPTIONS)
    assert len(run.history) == 2 * len(greedy.row) and greedy.in_place
    assert torch.equal(greedy.model.down1.weight, all_at_once.model.down1.weight)
    assert not torch.equal(greedy.model.middle.weight, all_at_once.model.middle.weight)
    assert not fo.measure.leaks(greedy, images)


def test_greedy_training_under_a_rule_that_reads_the_others(images):
    network = localize(UNet, maps, rule=fo.rules.make("cff-fixed", classes=4, negatives="uniform"))
    run = fo.fit(network, images, schedule="greedy", **OPTIONS)
    assert len(run.history) == 2 * len(network.row)


def test_a_greedy_run_resumes_to_the_same_bits(images, tmp_path):
    def stop(event):
        if event.step == 23:
            raise ZeroDivisionError

    options = {**OPTIONS, "schedule": "greedy", "checkpoint_every": 2}
    fo.fit(localize(ResNet, maps), images, out=tmp_path / "whole", **options)
    with pytest.raises(ZeroDivisionError):
        fo.fit(localize(ResNet, maps), images, out=tmp_path / "cut", progress=stop, **options)
    fo.fit(localize(ResNet, maps), images, out=tmp_path / "cut", resume=True, **options)
    whole, cut = (fo.load(tmp_path / name, model=ResNet()).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(own, cut[name]) for name, own in whole.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler, at itself
def test_compiled_blocks_learn_as_plain_ones(images, monkeypatch):
    """In other sums: their losses agree to rounding."""
    kept, compiled_modules = torch.compile, []

    def traced_alone(module, **options):
        compiled_modules.append(module)
        return kept(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", traced_alone)
    plain, compiled = localize(ResNet, maps), localize(ResNet, maps)
    options = {**OPTIONS, "optimiser": "sgd"}
    one, two = fo.fit(plain, images, **options), fo.fit(compiled, images, compile=True, **options)
    assert compiled.in_place and len(compiled_modules) == len(compiled.row)
    torch.testing.assert_close(torch.tensor(one.history[-1]["loss"]), torch.tensor(two.history[-1]["loss"]))
    for name, own in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("offload", [False, True])
def test_micro_batches_of_a_model_add_up_to_one_step_in_place(offload):
    """In parts of two, and with idle blocks in files; a group norm, for a batch norm sees a micro-batch."""
    losses, state = learned(train_step_in_place, localize(UNet, maps), maps)
    network = emitted(UNet, maps).train()
    updates = [Update(block, TrainingConfig(learning_rate=1e-2)) for block in network.row]
    batch, context = Batch(network.prepare(maps()), LABELS), Context("fp32", micro_batch=2)
    with Offload(network, updates, torch.device("cpu")) if offload else torch.enable_grad():
        found = torch.stack([train_step(network.row, updates, batch, context)[0] for _ in range(4)])
        assert all(map(mapped.holds, network.row[0].parameters())) == offload
        network.eval().scores(maps())  # in place
    torch.testing.assert_close(found, losses, atol=1e-5, rtol=1e-5)
    for name, own in network.state_dict().items():
        torch.testing.assert_close(own, state[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("make", "example", "parts"), [(UNet, maps, True), (LongMemory, series, False)])
def test_a_budget_too_small_for_whole_batches_is_kept_by_micro_batches(make, example, parts, images, monkeypatch):
    """Where axis 0 is not the batch, as in a series with time first, no batch can be divided."""
    monkeypatch.setattr(budget, "memory_bytes", lambda device: 0)
    monkeypatch.setattr(budget, "peak_memory_bytes", lambda device: 0)
    monkeypatch.setattr(budget, "RESERVE", 0)
    network = localize(make, example)
    data = take((series().repeat(40, 1, 1), LABELS.repeat(40)) if make is LongMemory else images, network.expected)

    def config(given):
        return TrainingConfig(memory_budget=f"{given / 1000}kB", precision="fp32", optimiser="sgd")

    def planned(given):
        return budget.make_plan(network, data, config(given), torch.device("cpu"), 64)

    ways = budget._ways_in_place(network, budget.Job(data, config(1), "fp32", torch.device("cpu"), 64))
    least = min(needed for _, needed in ways)
    assert planned(least + 1).micro_batch is None and network.in_place
    if parts:
        assert (planned(0.7 * least).micro_batch or 64) < 64 and not network.in_place
    with pytest.raises(ValueError, match="smallest memory budget that it fits in"):
        planned(1 if parts else 0.7 * least)


class Layers(nn.Module):
    """Three linear layers, with code between them that differs by test."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        return self.three(self.between(torch.relu(self.two(torch.relu(self.one(x))))))


class Dropped(Layers):
    def between(self, x):
        return F.dropout(x, 0.5, self.training)


class Drawn(Layers):
    def between(self, x):
        return x if self.training and torch.rand(()) < 0.0 else 2 * x


class DrawnByPython(Layers):
    def between(self, x):
        return x if self.training and random.random() < 0.0 else 2 * x


class Switched(Layers):
    def between(self, x):
        return x if x.sum() > 0 else -x


class CountingInABuffer(Layers):
    def between(self, x):
        self.count.add_(1)
        return x


class Writing(Layers):
    def between(self, x):
        x.neg_()
        return x


class WritingThroughAView(Layers):
    def between(self, x):
        x[:, :3].neg_()
        return x


class Remembering(Layers):
    def between(self, x):
        self.last = x
        return x


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Dropped, "something else in training than in evaluation"),
        (Drawn, "draws random numbers"),
        (DrawnByPython, "draws random numbers"),
        (Switched, "cannot be traced"),
        (Remembering, "keeps values from call to call"),
        (CountingInABuffer, "writes into a tensor, and a trace would leave it out"),
        (WritingThroughAView, "give something else than the model"),
        (Writing, "writes into a tensor, and a trace would leave it out"),
    ],
)
def test_what_a_trace_would_get_wrong_stays_in_place_and_says_why(make, reason):
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    network = localize(make, lambda: x[:6], keep_head=True)
    before = dict(vars(network.model))
    network.emit()
    assert network.in_place and reason in network.stays_because
    assert vars(network.model) == before
    y = torch.arange(80) % 4
    for options, feature in (
        ({"workers": 2}, "Several workers and a model that"),
        ({"schedule": "greedy"}, "Blocks that train one after another and a model that"),
        ({"compile": True}, "A model that"),
    ):
        with pytest.raises(ValueError, match=f"{feature}.*, for .*{reason}.*: "):
            fo.fit(network, (x, y), **OPTIONS, **options)
    assert len(fo.fit(network, (x, y), **OPTIONS).history) == 2  # in place it learns


def test_a_buffer_that_was_moved_or_loaded_is_the_one_that_is_read():
    network = emitted(ViT, maps).eval()
    first, second = network.row[:2]
    signal = first.pass_on(first(maps()), maps())
    before = second(signal)
    network.model.scale = torch.tensor(2.0)  # as .to puts another tensor there
    assert not torch.equal(second(signal), before)


def test_walls_inside_a_recurrent_stack_stay_in_place():
    network = localize(lambda: nn.GRU(3, 8, 3, batch_first=True), lambda: series().transpose(1, 2))
    network.emit()
    assert "inside the recurrent stack" in network.stays_because


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x) if self.training else x


def test_draws_of_any_module_are_seen_for_workers_draw_in_any_order(images):
    layers = [nn.Flatten(), nn.Linear(36, 12), Noise(), nn.ReLU(), nn.Linear(12, 8)]
    network = localize(lambda: nn.Sequential(*layers), maps, blocks=2, keep_head=True)
    with pytest.raises(ValueError, match="Several workers and dropout do not go together"):
        fo.fit(network, images, workers=2, **OPTIONS)
    assert len(fo.fit(network, images, schedule="greedy", **OPTIONS).history) == 4


def test_a_copy_of_a_block_computes_with_its_own_weights():
    """As the timing of blocks for stages, and trials of their memory, make them."""
    network = emitted(ResNet, maps).train()
    block = network.row[0]
    trial, before = copy.deepcopy(block), copy.deepcopy(network.state_dict())
    Update(trial, TrainingConfig(learning_rate=1.0))(trial.judge(network.prepare(maps()), LABELS)[1])
    assert all(torch.equal(own, before[name]) for name, own in network.state_dict().items())
    assert not torch.equal(trial(maps()), block(maps()))
