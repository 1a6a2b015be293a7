"""`localize`: models that were not written for this library learn block by block where they stand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import forwardonly as fo
from forwardonly.network.signal import detached
from forwardonly.network.walls import call
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

from .models import LABELS, MODELS, Drop, Encoder, Recurrent, ResNet, Stacked, Texts, localize, maps, tokens

pytestmark = pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")


def test_models_of_every_kind_are_cut_and_read(case):
    model, example, blocks, shape = case
    network = localize(model, example)
    read = network.eval().each(network.prepare(example), lambda block, activation, passed: tuple(activation.shape[1:]))
    assert (len(read), read[1]) == (blocks, shape)


def test_evaluation_is_the_models_own_to_the_bit(case):
    model, example, _, _ = case
    model.eval()
    with torch.no_grad():
        expected = call(model, example)
        expected = expected if isinstance(expected, torch.Tensor) else next(iter(expected.values()))
    network = localize(model, example).eval()
    with torch.no_grad():
        for _ in range(2):
            given = network.walled.walk(example, lambda index, arrival: detached(arrival.signal), whole=True)
            given = given if isinstance(given, torch.Tensor) else next(iter(given.values()))
            assert torch.equal(given, expected)


@pytest.mark.parametrize("training", [True, False])
def test_each_loss_reaches_its_own_weights_alone(case, training):
    model, example, _, _ = case
    network = localize(model, example).train(training)
    losses = network.local_losses(network.prepare(example), LABELS)
    for index, loss in enumerate(losses):
        network.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        reached = [[weight.grad is not None for weight in block.body.parameters()] for block in network.row]
        assert all(reached[index]), f"block {index} has a weight that its loss does not reach"
        assert not any(any(other) for number, other in enumerate(reached) if number != index)


def test_a_step_gives_each_block_the_gradient_of_its_own_loss(case):
    """Against autograd of the stated loss: each block's update equals that from its loss on the detached signal."""
    model, example, _, _ = case
    model.eval()
    network = localize(model, example).eval()  # no dropout, so that both passes draw the same
    losses = network.local_losses(network.prepare(example), LABELS)
    torch.stack(losses).sum().backward()
    expected = {
        name: weight - 0.1 * weight.grad for name, weight in network.named_parameters() if weight.grad is not None
    }
    network.zero_grad(set_to_none=True)
    config = TrainingConfig(optimiser="sgd", learning_rate=0.1, weight_decay=0.0, momentum=0.0)
    updates = [Update(block, config) for block in network.row]
    found = whole_step(network, updates, Batch(network.prepare(example), LABELS), Context("fp32"))
    torch.testing.assert_close(found, torch.stack(losses).detach())
    weights = dict(network.named_parameters())
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value)


@pytest.mark.parametrize("groups", [1, 2])
def test_group_norm_behind_a_wall_on_channels_last_maps(groups):
    """PyTorch's own backward pass crashes the process there, so a failure of this test ends it."""
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Sequential(nn.GroupNorm(groups, 4), nn.Conv2d(4, 4, 3)), nn.ReLU()]
    network = localize(nn.Sequential(*layers).to(memory_format=torch.channels_last), blocks=["1"])
    assert len(network.row) == 2
    for loss in network.train().local_losses(network.prepare(maps()), LABELS):
        loss.backward()


def test_dropout_of_the_models_own_making_is_off_in_evaluation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), Drop(), nn.Linear(16, 16), Drop(), nn.Linear(16, 4))
    network = localize(model, blocks=2)
    assert torch.equal(network.predict(maps()), network.predict(maps()))
    assert torch.equal(network.probabilities(maps()), network.probabilities(maps()))
    network.train()
    assert not torch.equal(network(maps()), network(maps()))


def test_memory_saved_for_backward_is_that_of_one_block():
    def saved(depth):
        layers = [nn.Flatten(), *(part for _ in range(depth) for part in (nn.Linear(36, 36), nn.ReLU()))]
        network = localize(nn.Sequential(*layers))
        assert len(network.row) == depth
        updates = [Update(block, TrainingConfig()) for block in network.row]
        with fo.measure.SavedBytes() as counted:
            whole_step(network, updates, Batch(network.prepare(maps()), LABELS), Context("fp32"))
        return counted.peak

    assert saved(12) == saved(4)


def test_the_head_is_left_out_or_kept():
    def trained(network):
        return {name for block in network.row for name, _ in block.body.named_parameters()}

    model = ResNet()
    assert trained(localize(model)) == {name for name, _ in model.named_parameters() if not name.startswith("fc")}
    assert trained(localize(model, keep_head=True)) == {name for name, _ in model.named_parameters()}
    ours = {id(weight) for block in localize(model).row for weight in block.body.parameters()}
    assert ours <= {id(weight) for weight in model.parameters()}


def test_frozen_parts_stay_as_they_are():
    model = ResNet()
    model.layer1.requires_grad_(False)
    network = localize(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = fo.data.Images((maps() * 255).byte(), LABELS, tuple("abcd"), "some")
    fo.fit(network, images, epochs=2, batch_size=3, precision="fp32")
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("layer1") for name in moved)
    assert any(name.startswith("layer2") for name in moved) and any(name.startswith("bn1.running") for name in moved)


def test_localize_leaves_the_model_as_it_was():
    model = ResNet()
    model.bn1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    localize_only = fo.localize(model, fo.rules.Projection(classes=4), maps())
    assert torch.equal(torch.rand(1), drawn)  # the global random state, too
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.bn1.weight.requires_grad and all(not module._forward_hooks for module in model.modules())
    assert fo.unlocalize(localize_only) is model
    with pytest.raises(ValueError, match="has no model of its own"):
        fo.unlocalize(fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=4)))


@pytest.mark.parametrize(
    "rule", ["similarity", "channel-learnable", "hyperspherical", "ff", "cff-adaptive", "backprop"]
)
def test_a_localized_network_learns(images, rule):
    network = localize(rule=fo.rules.make(rule, classes=4))
    run = fo.fit(network, images, epochs=8, batch_size=20, learning_rate=3e-3, precision="fp32", delay=0.0)
    assert run.history[-1]["loss"][-1] < run.history[0]["loss"][-1]
    assert not fo.measure.leaks(network, images)
    again = localize(rule=fo.rules.make(rule, classes=4))
    fo.fit(again, images, epochs=8, batch_size=20, learning_rate=3e-3, precision="fp32", delay=0.0)
    assert all(map(torch.equal, network.state_dict().values(), again.state_dict().values()))  # same seed, same bits


def test_goodness_under_each_label_is_that_of_labelled_images(images):
    network = localize(rule=fo.rules.ForwardForward(classes=4, negatives="uniform")).eval()
    network.prepare.fit(images.images)
    given = network.scores(images.images[:3])
    for label in range(4):
        labelled = network.with_labels(network.prepare(images.images[:3]), torch.full((3,), label))
        own = network.each(labelled, lambda block, activation, passed: block.rule.goodness(activation))
        torch.testing.assert_close(given[:, :, label], torch.stack(own))


@pytest.mark.parametrize("mask", [True, False])
def test_the_mean_over_tokens_leaves_out_what_is_masked(mask):
    inputs = tokens()
    if not mask:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    network = localize(Texts(), inputs).eval()
    first = network.each(network.prepare(inputs), lambda block, activation, passed: activation)[0]
    model = network.model
    hidden = model.one(model.embedding(inputs["input_ids"]))
    torch.testing.assert_close(first, hidden[:, : 5 if mask else 7].mean(1))


def test_texts_of_another_length_are_taken():
    network = localize(Texts(), tokens())
    longer = {"input_ids": torch.zeros(3, 30, dtype=torch.int64), "attention_mask": torch.ones(3, 30)}
    longer["attention_mask"] = longer["attention_mask"].long()
    assert network.predict(longer).shape == (3,)


def test_saved_and_loaded_around_the_model(case, tmp_path):
    model, example, _, _ = case
    network = localize(model, example)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01)
    fo.save(network.eval(), tmp_path)
    fresh = next(make for make, *_ in MODELS.values() if isinstance(make(), type(model)))()
    if not isinstance(model, Encoder | Recurrent | Stacked | nn.Sequential):
        again = fo.load(tmp_path, model=fresh)
        assert torch.equal(again.scores(example), network.scores(example))
    with pytest.raises(ValueError, match=r"fo\.load\(folder, model=\.\.\.\)"):
        fo.load(tmp_path)
    with pytest.raises(ValueError, match="another model"):
        fo.load(tmp_path, model=nn.Linear(2, 2))


def test_a_run_of_a_users_model_resumes_to_the_same_bits(images, tmp_path):
    def stop(event):
        if event.step == 7:
            raise ZeroDivisionError

    options = {"epochs": 3, "batch_size": 20, "precision": "fp32"}
    whole = fo.fit(localize(), images, out=tmp_path / "whole", **options)
    with pytest.raises(ZeroDivisionError):
        fo.fit(localize(), images, out=tmp_path / "cut", progress=stop, checkpoint_every=2, **options)
    fo.fit(localize(), images, out=tmp_path / "cut", resume=True, **options)
    for folder in ("whole", "cut"):
        again = fo.load(tmp_path / folder, model=ResNet())
        assert torch.equal(again.scores(images.images), whole.network.scores(images.images))


def test_onnx_gives_the_same_scores_for_any_batch(images, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from forwardonly.export import export_network

    network = localize(Texts(), tokens()).eval()
    (path,) = export_network(network, tmp_path, format="onnx")
    session = onnxruntime.InferenceSession(str(path))
    given = {name: tensor[:3].numpy() for name, tensor in tokens().items()}
    scores, _ = session.run(None, given)
    expected = network({name: tensor[:3] for name, tensor in tokens().items()})
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (torch.rand(2, 7), "takes a dict with input_ids, attention_mask, not Tensor"),
        (
            {"input_ids": torch.zeros(2, 7, dtype=torch.int64)},
            "takes a dict with input_ids, attention_mask, not input_ids",
        ),
        ({**tokens(), "input_ids": torch.rand(6, 7)}, "'input_ids' takes whole numbers of batch x 7, not floats"),
        ({**tokens(), "input_ids": torch.zeros(6, dtype=torch.int64)}, "not whole numbers of 6"),
    ],
)
def test_inputs_of_another_form_are_one_clear_sentence(inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        localize(Texts(), tokens()).predict(inputs)


def test_offloading_blocks_of_a_model_in_place_changes_no_bit(images):
    """By the plan that a budget below the resident weights would give; in files on a CPU."""
    from forwardonly.system import mapped
    from forwardonly.training.memory.offload import Offload

    def trained(offloaded):
        torch.manual_seed(0)
        network = localize(nn.Sequential(nn.Flatten(), *(p for _ in range(4) for p in (nn.Linear(36, 36), nn.ReLU()))))
        updates = [Update(block, TrainingConfig(learning_rate=0.01)) for block in network.row]
        with Offload(network, updates, torch.device("cpu")) if offloaded else torch.enable_grad():
            for _ in range(3):
                whole_step(network, updates, Batch(network.prepare(maps()), LABELS), Context("fp32"))
            in_files = [all(map(mapped.holds, block.parameters())) for block in network.row]
        assert in_files == [offloaded] * 4
        return network.state_dict()

    assert all(map(torch.equal, trained(True).values(), trained(False).values()))


def test_a_budget_is_kept_or_refused_for_a_model_in_place(images):
    plain, within = (localize(rule=fo.rules.Hyperspherical(classes=4)) for _ in range(2))
    fo.fit(plain, images, epochs=2, batch_size=20, precision="fp32")
    fo.fit(within, images, epochs=2, batch_size=20, precision="fp32", memory_budget="8GiB")
    assert all(map(torch.equal, plain.state_dict().values(), within.state_dict().values()))
    with pytest.raises(ValueError, match=r"does not fit in 1MiB: the smallest memory budget that it fits in is \d+MiB"):
        fo.fit(localize(), images, epochs=2, memory_budget="1MiB")


class Skipping(nn.Module):
    """Leaves out its middle layer in training, as layer drop does."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x):
        x = torch.relu(self.one(x))
        x = x if self.training and self.two.skipped else torch.relu(self.two(x))
        return torch.relu(self.three(x))


def test_a_block_that_the_model_skips_does_not_learn_and_the_others_do():
    model, x = Skipping(), torch.randn(6, 6)
    model.two.skipped = False
    network = localize(model, x)
    model.two.skipped = True
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    updates = [Update(block, TrainingConfig()) for block in network.row]
    losses = whole_step(network, updates, Batch(network.prepare(x), LABELS), Context("fp32"))
    moved = {
        name.partition(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])
    }
    assert moved == {"one", "three"} and losses[1] == 0 < min(losses[0], losses[2])


class Language(nn.Module):
    """The next of twenty tokens from those before it, by two causal convolutions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 12)
        self.one, self.two = nn.Conv1d(12, 16, 3), nn.Conv1d(16, 16, 3)

    def forward(self, input_ids):
        x = self.table(input_ids).transpose(1, 2)
        for layer in (self.one, self.two):
            x = torch.relu(layer(F.pad(x, (2, 0))))
        return x


@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_a_model_of_text_learns_the_next_token(form):
    """A text in which each token follows from the one before is learned nearly for certain."""
    text = torch.arange(64 * 9).view(64, 9) * 7 % 20
    ids = text[:, :-1] if form == "tensor" else {"input_ids": text[:, :-1]}
    example = ids[:2] if form == "tensor" else {"input_ids": text[:2, :-1]}
    network = localize(Language(), example, rule=fo.rules.Projection(classes=20, targets="token"), blocks=2)
    run = fo.fit(network, (ids, text[:, 1:]), epochs=20, batch_size=16, learning_rate=0.01, precision="fp32")
    assert max(run.history[-1]["loss"]) < 0.2 < min(run.history[0]["loss"])
    assert (network.predict(ids) == text[:, 1:]).float().mean() > 0.95


@pytest.mark.parametrize("targets", ["number", "labels"])
def test_a_model_of_a_table_learns_numbers_and_several_labels(targets):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 6, generator=generator)
    numbers = torch.stack([x[:, 0] + x[:, 1], x[:, 2] - x[:, 3]], 1)
    y = numbers if targets == "number" else (numbers > 0).float()
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    network = localize(model, x[:2], rule=fo.rules.Projection(classes=2, targets=targets))
    fo.fit(network, (x, y), epochs=30, batch_size=32, learning_rate=0.01, precision="fp32")
    given = network.predict(x)
    if targets == "number":
        assert 1 - (given - y).square().mean() / y.var(0).mean() > 0.95
    else:
        assert (given == y.bool()).float().mean() > 0.95


def test_a_step_in_bf16_keeps_no_copies_of_earlier_blocks_weights():
    """Autocast would keep a copy of every weight until the step ends, which grows with depth."""
    from forwardonly.system.memory import AllocatedBytes

    def peak(depth):
        torch.manual_seed(0)
        layers = [part for _ in range(depth) for part in (nn.Linear(256, 256), nn.ReLU())]
        network = fo.localize(nn.Sequential(*layers), fo.rules.Projection(classes=4), torch.rand(8, 256)).train()
        updates = [Update(block, TrainingConfig(optimiser="sgd", momentum=0)) for block in network.row]
        known = [*network.parameters(), *network.buffers()]
        with AllocatedBytes(known=known) as held:
            whole_step(network, updates, Batch(torch.rand(8, 256), torch.arange(8) % 4), Context("bf16"))
        return held.peak

    assert peak(12) < 1.2 * peak(4)
