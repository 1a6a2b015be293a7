"""Tuning a network that has learned before: heads first, and smaller steps for the bodies."""

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import training_step
from forwardonly.training.config import TrainingConfig
from forwardonly.training.optim import Muon
from forwardonly.training.update import Update

pytestmark = pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")
OPTIONS = {"batch_size": 20, "precision": "fp32", "optimiser": "sgd", "momentum": 0.0, "lr_schedule": "constant"}


def small(rule="projection"):
    return fo.build(fo.bodies.CNN(width=0.05), (1, 8, 8), rule=fo.rules.make(rule, classes=4))


def localized():
    torch.manual_seed(0)
    parts = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return fo.localize(nn.Sequential(*parts), fo.rules.Projection(classes=4), torch.rand(2, 1, 8, 8), blocks=2)


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 256, (80, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return fo.data.Images(drawn, torch.arange(80) % 4, tuple("abcd"), "random")


def bodies(network):
    return [tensor.clone() for block in network.row for tensor in block.body.state_dict(keep_vars=False).values()] or [
        weight.detach().clone() for block in network.row for weight in block.body.parameters()
    ]


def same(one, other):
    return [torch.equal(*pair) for pair in zip(one, other, strict=True)]


@pytest.mark.parametrize("make", [small, localized])
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"memory_budget": "8GiB"}], ids=str)
def test_heads_learn_first_and_bodies_later(pictures, make, options):
    network = make()
    before, rules = bodies(network), [block.rule.classifier.weight.detach().clone() for block in network.row]
    seen = {}

    def look(event):
        if event.row is not None:
            seen[event.row["epoch"]] = bodies(network)

    fo.fit(network, pictures, epochs=4, heads_first=0.5, progress=look, **{**OPTIONS, **options})
    assert all(same(before, seen[1])) and not all(same(before, seen[2]))  # statistics of norms, too
    assert not any(same(rules, [block.rule.classifier.weight for block in network.row]))
    assert all(weight.requires_grad for weight in network.parameters())


def test_a_run_that_is_cut_while_heads_learn_goes_on_to_the_same_bits(pictures, tmp_path):
    def stop(at):
        def look(event):
            if event.step == at:
                raise ZeroDivisionError

        return look

    options = {**OPTIONS, "epochs": 4, "heads_first": 0.4, "checkpoint_every": 1}
    whole = fo.fit(small(), pictures, **options).network.state_dict()
    for at in (3, 6, 7, 12):  # the bodies are freed in step 6 of 16
        network = small()
        with pytest.raises(ZeroDivisionError):
            fo.fit(network, pictures, out=tmp_path / str(at), progress=stop(at), **options)
        assert all(weight.requires_grad for weight in network.parameters())
        again = fo.fit(small(), pictures, out=tmp_path / str(at), resume=True, **options).network.state_dict()
        assert all(torch.equal(whole[name], tensor) for name, tensor in again.items())


def test_bodies_and_early_blocks_take_smaller_steps(pictures):
    """Plain SGD: the first step of a weight is proportional to its rate."""
    steps = {}
    for name, options in (("plain", {}), ("tuned", {"body_rate": 0.1, "layer_decay": 0.5})):
        network = small()
        before = [block.body[0].weight.detach().clone() for block in network.row]
        heads = [block.rule.classifier.weight.detach().clone() for block in network.row]
        fo.fit(network, pictures, epochs=1, **{**OPTIONS, "batch_size": 80, "learning_rate": 0.01}, **options)
        steps[name] = (
            [block.body[0].weight - old for block, old in zip(network.row, before, strict=True)],
            [block.rule.classifier.weight - old for block, old in zip(network.row, heads, strict=True)],
        )
    depth = len(steps["plain"][0])
    for index in range(depth):
        share = 0.1 * 0.5 ** (depth - 1 - index)
        torch.testing.assert_close(steps["tuned"][0][index], share * steps["plain"][0][index], rtol=1e-2, atol=1e-7)
    first_head = steps["tuned"][1][0], steps["plain"][1][0]
    torch.testing.assert_close(*first_head)


def test_batches_that_arrive_and_a_step_as_a_graph_have_the_rates_of_a_run(pictures):
    """Plain SGD on all images: one step of `fit`, in which their order does not matter."""
    rates = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.05, "body_rate": 0.1, "layer_decay": 0.5}
    fitted = fo.fit(small(), pictures, epochs=1, **{**OPTIONS, "batch_size": 80, **rates}).network.state_dict()
    online = fo.training.Online(start := small(), precision="fp32", **rates)
    start.prepare.fit(pictures.images)
    step = training_step(start, batch_size=80, **rates)
    given = {"images": pictures.images, "labels": pictures.labels, "learning_rate": torch.tensor(0.05)}
    _, graph = step(step.state, **given)
    online.learn(pictures.images, pictures.labels)
    before, learned = small().state_dict(), online.network.state_dict()
    for name in (name for name in graph if name.endswith("weight")):
        for own in (learned, graph):
            torch.testing.assert_close(own[name] - before[name], fitted[name] - before[name], rtol=1e-2, atol=1e-7)


def test_muon_leaves_embeddings_and_positions_to_sgd():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.place = nn.Embedding(9, 8), nn.Parameter(torch.zeros(1, 5, 8))
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return torch.relu(self.two(torch.relu(self.one(self.table(x) + self.place))))

    network = fo.localize(Model(), fo.rules.Projection(classes=3), torch.zeros(2, 5, dtype=torch.int64), blocks=["one"])
    update = Update(network.row[0], TrainingConfig(optimiser="muon"))
    muon = [optimiser for optimiser in update.optimisers if isinstance(optimiser, Muon)]
    trained = {id(weight) for optimiser in muon for group in optimiser.param_groups for weight in group["params"]}
    assert trained == {id(network.model.one.weight)}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads_first": 1.0}, "heads_first is a share of the run, from 0 to below 1, not 1.0"),
        ({"body_rate": 0.0}, "body_rate is a factor above 0, at most 1, not 0.0"),
        ({"layer_decay": 1.5}, "layer_decay is a factor above 0, at most 1, not 1.5"),
    ],
)
def test_shares_and_factors_out_of_range(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainingConfig(**options)


def test_a_rule_without_weights_has_no_heads(pictures):
    with pytest.raises(ValueError, match="heads_first needs a rule with weights of its own"):
        fo.fit(fo.mlp((1, 8, 8), [8, 8], rule=fo.rules.ChannelStatic(classes=4)), pictures, heads_first=0.5)


class TestOtherData:
    """What is forgotten: `fo.fit(..., other=...)`."""

    def fit(self, pictures, other, **options):
        return fo.fit(small(), pictures, other=other, epochs=2, **{**OPTIONS, **options}).result

    @pytest.mark.parametrize(
        ("other", "sentence"),
        [
            (lambda own: fo.data.Images(own.images[:, :, :5], own.labels, own.classes, "low"), "1, 5, 8"),
            (lambda own: fo.data.Images(own.images[:0], own.labels[:0], own.classes, "none"), "no images"),
            (lambda own: fo.data.Images(own.images, own.labels * 0, ("x",), "one"), "two classes or more"),
            (lambda own: fo.data.Images(own.images), "have no labels"),
            (lambda own: [(own.images, own.labels + 3)], "the label '4' is not among the classes"),
            (lambda own: iter([(own.images, own.labels)]), "other is read after each epoch, and a generator ends"),
        ],
        ids=["size", "none", "one class", "no labels", "strange label", "generator"],
    )
    def test_what_cannot_be_measured_is_refused_before_the_first_step(self, pictures, other, sentence):
        def step(event):
            raise AssertionError("a step was taken")

        with pytest.raises(ValueError, match=sentence):
            self.fit((pictures.images, pictures.labels), other(pictures), progress=step)

    def test_a_stream_is_read_after_each_epoch(self, pictures):
        arrays = pictures.images, pictures.labels
        batches = [(pictures.images[start : start + 16], pictures.labels[start : start + 16]) for start in (0, 16, 32)]
        result = self.fit(arrays, batches)
        whole = self.fit(arrays, tuple(part[:48] for part in arrays))
        assert result["other_accuracy"] == whole["other_accuracy"] and result["before"] == whole["before"]

    def test_two_classes_of_two_images_are_enough_to_probe(self, pictures):
        few = fo.data.Images(pictures.images[:4], pictures.labels[:4] % 2, ("x", "y"), "few")
        assert 0 <= self.fit(pictures, few)["before"]["other_probe_accuracy"] <= 1
