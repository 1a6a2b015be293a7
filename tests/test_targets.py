"""Each kind of target: its loss against torch's own, its figures against scikit-learn's, and that it is learned."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, make_multilabel_classification
from sklearn.linear_model import LinearRegression
from sklearn.metrics import average_precision_score, mean_squared_error, r2_score
from torch import nn

import forwardonly as fo
from forwardonly.bodies.layers import Layer
from forwardonly.data.taking import take
from forwardonly.measure.accuracy import fit_readout
from forwardonly.measure.metrics import TALLIES, average_precision
from forwardonly.network.build import assemble
from forwardonly.targets import IGNORED, KINDS
from forwardonly.training import Team
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context, train_step
from forwardonly.training.update import Update

CPU = torch.device("cpu")
LINEAR = ["projection", "auxiliary", "best", "bilinear", "backprop"]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rule_for(kind, outputs, features=6, **options):
    return fo.rules.Projection(classes=outputs, targets=kind, **options).for_block(
        (features,), fo.rules.BlockPosition(0, 1)
    )


def test_the_losses_are_torchs_own():
    x = drawn(5, 6)
    for kind, targets, loss in [
        ("class", torch.tensor([0, 2, 1, 1, 0]), F.cross_entropy),
        ("labels", (drawn(5, 3, seed=1) > 0).float(), F.binary_cross_entropy_with_logits),
        ("number", drawn(5, 3, seed=2), F.mse_loss),
    ]:
        rule = rule_for(kind, 3)
        assert torch.allclose(rule.loss(x, targets), loss(rule.classifier(x), targets)), kind


def test_tokens_are_examples_of_their_own_and_some_are_left_out():
    rule = fo.rules.Projection(classes=4, targets="token").for_block((7, 6), fo.rules.BlockPosition(0, 1))
    x, tokens = drawn(2, 7, 6), torch.arange(14).view(2, 7) % 4
    tokens[0, 3:] = IGNORED
    scores = rule.every_score(x)
    assert scores.shape == (2, 7, 4) and torch.allclose(scores, rule.classifier(x))
    loss, _ = rule.local_loss(x, tokens, None)
    assert torch.allclose(loss, F.cross_entropy(scores.transpose(1, 2), tokens, ignore_index=IGNORED))


@pytest.mark.parametrize("name", fo.rules.TABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_learns_a_kind_or_refuses_it_in_a_sentence(name, kind):
    if kind in fo.rules.rule_class(fo.rules.TABLE[name]).learns:
        assert fo.rules.make(name, classes=2, targets=kind).options()["targets"] == kind
    else:
        with pytest.raises(ValueError, match=r"does not learn .*: choose a rule with a linear read-out"):
            fo.rules.make(name, classes=2, targets=kind)


def test_how_many_outputs_there_must_be():
    assert fo.rules.Projection(classes=1, targets="number").classes == 1
    with pytest.raises(ValueError, match="at least 2 classes"):
        fo.rules.Projection(classes=1)
    with pytest.raises(ValueError, match="targets must be one of class, labels, number, token, not 'numbers'"):
        fo.rules.Projection(classes=1, targets="numbers")


@pytest.mark.parametrize("rule", LINEAR)
def test_numbers_are_learned_block_by_block(rule):
    X, y = load_diabetes(return_X_y=True)
    net = fo.mlp((10,), (64, 64), rule=fo.rules.make(rule, classes=1, targets="number"), standardise=True)
    held, epochs = (X[350:], y[350:]), 15 if rule in ("projection", "backprop") else 6
    run = fo.fit(net, (X[:350], y[:350]), validation=held, test=held, epochs=epochs, precision="fp32")
    assert run.result["test_r2"] > 0.25, "as guessing the mean has 0 and a linear model about 0.5"
    assert len(run.history[-1]["block_r2"]) == len(net.row) == len(run.result["block_r2"])
    said = net.predict(X[350:])
    assert said.shape == (92,) and run.result["test_r2"] == pytest.approx(r2_score(y[350:], said), abs=1e-5)
    assert run.result["test_mse"] == pytest.approx(mean_squared_error(y[350:], said), rel=1e-4)
    assert run.result["test_accuracy"] is None


def test_a_linear_function_is_learned_as_least_squares_finds_it():
    """One block whose body is the identity: squared error of a linear read-out has one minimum."""
    x = drawn(400, 3)
    y = x @ torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, 300.0]]) + torch.tensor([5.0, 1000.0])
    net = assemble([Layer(nn.Identity())], (3,), fo.rules.Projection(classes=2, targets="number"))
    net.row[0].body = nn.Identity()
    fo.fit(net, (x, y), epochs=60, batch_size=40, learning_rate=0.05, precision="fp32")
    exact = LinearRegression().fit(x.numpy(), y.numpy()).predict(x.numpy())
    assert np.abs(net.predict(x).numpy() - exact).max() < 0.02 * float(y.std(0).max())
    assert fo.evaluate(net, (x, y), precision="fp32").r2 > 0.999


@pytest.mark.parametrize("rule", LINEAR)
def test_several_labels_are_learned_block_by_block(rule):
    X, Y = make_multilabel_classification(600, 20, n_classes=5, random_state=0)
    net = fo.mlp((20,), (64, 64), rule=fo.rules.make(rule, classes=5, targets="labels"), standardise=True)
    run = fo.fit(net, (X[:450], Y[:450]), validation=(X[450:], Y[450:] > 0), epochs=10)
    share = Y[450:].mean(0).mean()
    assert run.history[-1]["validation_mean_average_precision"] > share + 0.15, "above what chance gives"
    scores = net(torch.tensor(X[450:]))
    expected = average_precision_score(Y[450:], scores.numpy())
    assert run.history[-1]["validation_mean_average_precision"] == pytest.approx(expected, abs=2e-2)
    said = net.predict(X[450:])
    assert said.dtype == torch.bool and said.shape == (150, 5)
    assert torch.equal(said, net.probabilities(torch.tensor(X[450:])) > 0.5)


class Shift(nn.Module):
    """Next to an embedding, that of the token before: all that a bigram with memory of one needs."""

    def __init__(self, words, width):
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.linear = nn.Linear(2 * width, width)

    def forward(self, ids):
        x = self.embedding(ids)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return torch.relu(self.linear(torch.cat([x, before], -1)))


def language_model(words=8, width=32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        position = fo.rules.BlockPosition
        rule = fo.rules.Projection(classes=words, targets="token")
        bodies = [Shift(words, width), nn.Sequential(nn.Linear(width, width), nn.ReLU())]
        blocks = [fo.Block(body, rule.for_block((11, width), position(k, 2))) for k, body in enumerate(bodies)]
        return fo.Network(blocks, shape=(11,))


def counting(rows=64, words=8, seed=0):
    """Sequences in which each token is the sum of the two before it."""
    ids = torch.randint(words, (rows, 12), generator=torch.Generator().manual_seed(seed))
    for column in range(2, 12):
        ids[:, column] = (ids[:, column - 1] + ids[:, column - 2]) % words
    return ids


def test_the_next_token_is_learned_and_text_is_its_own_target():
    net = language_model()
    run = fo.fit(net, counting(), validation=counting(seed=1), epochs=60, batch_size=16, learning_rate=0.01)
    row = run.history[-1]
    assert row["validation_perplexity"] < 2.0, "the first token in eleven cannot be known: 8 ** (1 / 11) at best"
    assert row["validation_cross_entropy"] == pytest.approx(math.log(row["validation_perplexity"]))
    assert row["validation_accuracy"] > 0.8 and len(row["block_perplexity"]) == 2
    ids = counting(4, seed=2)
    assert (net.predict(ids[:, :-1])[:, 1:] == ids[:, 2:]).float().mean() > 0.9
    assert fo.evaluate(net, (ids[:, :-1], ids[:, 1:])).perplexity == fo.evaluate(net, ids).perplexity


def test_average_precision_is_scikit_learns_also_with_ties_and_without_a_positive():
    scores = drawn(50, 4).mul(2).round()
    present = drawn(50, 4, seed=1) > 0
    present[:, 3] = False
    found = average_precision(scores, present)
    for label in range(3):
        assert float(found[label]) == pytest.approx(average_precision_score(present[:, label], scores[:, label]))
    assert found[3].isnan()


def test_figures_do_not_depend_on_the_batches():
    scores, targets = drawn(2, 90, 3).double() * 10 + 1e4, drawn(90, 3, seed=1).double() + 1e4
    for kind, wanted in (("number", targets), ("labels", (targets > 1e4).double())):
        results = []
        for size in (90, 7):
            tally = TALLIES[kind](2, 3, CPU)
            for start in range(0, 90, size):
                part = slice(start, start + size)
                tally.add(scores[:, part], scores.mean(0)[part], wanted[part])
            results.append(tally.result().figures)
        for name, value in results[0].items():
            assert results[1][name] == pytest.approx(value), name
    assert results[0]["exact_match"] == pytest.approx(float((wanted == 1).all(1).double().mean()))
    tally = TALLIES["number"](2, 3, CPU)
    tally.add(scores, scores.mean(0), targets)
    assert tally.result().r2 == pytest.approx(r2_score(targets, scores.mean(0)))


def test_a_number_that_never_differs_has_no_r2():
    tally = TALLIES["number"](1, 2, CPU)
    tally.add(drawn(1, 5, 2), drawn(5, 2), torch.stack([torch.ones(5), drawn(5, seed=3)], 1))
    assert math.isfinite(tally.result().r2)
    tally = TALLIES["number"](1, 1, CPU)
    tally.add(drawn(1, 5, 1), drawn(5, 1), torch.ones(5, 1))
    assert math.isnan(tally.result().r2)


@pytest.mark.parametrize("kind", ["number", "labels"])
@pytest.mark.parametrize("readout", ["last", "validation", "training"])
def test_saved_and_loaded_with_other_targets(tmp_path, kind, readout):
    X, Y = drawn(80, 6), (drawn(80, 2, seed=1) > 0).float() * 7 ** (kind == "number")
    net = fo.mlp((6,), (12, 8), rule=fo.rules.Projection(classes=2, targets=kind), readout=readout, standardise=True)
    fo.fit(net, (X, Y), validation=(X, Y), epochs=2, out=tmp_path / "run")
    again = fo.load(tmp_path / "run")
    assert torch.equal(again.predict(X), net.predict(X)) and again.targets == kind
    assert fo.evaluate(again, (X, Y)).figures == fo.evaluate(net, (X, Y)).figures
    assert fo.measure.leaks(net, (X, Y)) == []


def test_a_range_of_blocks_is_of_classes():
    with pytest.raises(ValueError, match="'range' counts right classes"):
        fo.mlp((6,), (4,), rule=fo.rules.Projection(classes=1, targets="number"), readout="range")


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "greedy"},
        {"workers": 2},
        {"memory_budget": "2GiB"},
        {"compile": False, "delay": 0.5},
    ],
    ids=str,
)
def test_numbers_go_with_every_way_of_training(options):
    X = drawn(160, 6)
    y = X[:, :1] * 3 + 10
    net = fo.mlp((6,), (32, 32), rule=fo.rules.Projection(classes=1, targets="number"))
    fo.fit(net, (X, y), epochs=20, precision="fp32", **options)
    assert fo.evaluate(net, (X, y)).r2 > 0.9


def test_online_learning_of_numbers():
    X = drawn(64, 6)
    y = X[:, :1] * 3 + 10
    net = fo.mlp((6,), (32,), rule=fo.rules.Projection(classes=1, targets="number"))
    online = fo.training.Online(net, precision="fp32")
    with pytest.raises(ValueError, match="units"):
        online.learn(X, y)
    net.units.fit(y)
    for _ in range(150):
        online.learn(X, y)
    assert fo.evaluate(net, (X, y)).r2 > 0.9
    with pytest.raises(ValueError, match="does not fit a network that learns numbers"):
        online.learn(X, torch.zeros(64, 2))


def padded(rows):
    """Text as its own target, of which the first rows have one position each to be predicted."""
    ids, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[: len(rows) // 2, 1:] = IGNORED
    return ids, targets


def stepped(net, ids, targets, **context):
    """The losses of one step, and the weights after it."""
    config = TrainingConfig(optimiser="sgd", learning_rate=0.1)
    updates = [Update(block, config) for block in net.row]
    losses, _ = train_step(net.row, updates, Batch(net.prepare(ids), targets), Context("fp32", **context))
    return losses, torch.cat([weight.detach().flatten() for weight in net.parameters()])


@pytest.mark.parametrize("part", [4, 3])
def test_micro_batches_of_padded_tokens_take_the_step_of_the_whole_batch(part):
    ids, targets = padded(counting(8))
    expected = stepped(language_model(), ids, targets)
    for found, own in zip(stepped(language_model(), ids, targets, micro_batch=part), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)


def test_a_batch_of_padding_alone_has_no_loss_and_moves_nothing():
    ids, targets = padded(counting(8))
    net = language_model()
    before = torch.cat([weight.detach().flatten() for weight in net.parameters()])
    losses, after = stepped(net, ids, torch.full_like(targets, IGNORED))
    assert losses.tolist() == [0.0, 0.0] and torch.equal(after, before)


def test_replicas_weigh_padded_tokens_by_those_that_are_to_be_predicted(monkeypatch):
    """The second of two replicas runs after the first one's gradients are known, and adds them to its own."""
    ids, targets = padded(counting(8))
    _, expected = stepped(language_model(), ids, targets)
    config = TrainingConfig(optimiser="sgd", learning_rate=0.1)
    sent, arriving = [], []

    class Done:
        def wait(self):
            pass

    def summed(gradient, **_):
        sent.append(gradient.clone())
        if arriving:
            gradient += arriving.pop(0)
        return Done()

    monkeypatch.setattr("forwardonly.training.distributed.team.dist.all_reduce", summed)
    for replica in range(2):
        net, team, arriving[:] = language_model(), Team(), list(sent)
        team.replicas, team.replica = 2, replica
        updates = [team.update(block, config, 8) for block in net.row]
        rows = team.part(8)
        train_step(net.row, updates, Batch(net.prepare(ids[rows]), targets[rows]), Context("fp32"))
        team.finish()
    found = torch.cat([weight.detach().flatten() for weight in net.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["validation", "training"])
def test_a_readout_is_fitted_to_the_tokens_that_are_to_be_predicted(kind):
    ids, targets = padded(counting(40))
    net = language_model()
    net.readout = fo.Readout(kind, 2)
    fo.fit(net, (ids, targets), validation=(ids, targets), epochs=2, batch_size=16, precision="fp32")
    scores, kept = net.eval().scores(ids), targets != IGNORED
    losses = torch.stack([F.cross_entropy(own[kept], targets[kept]) for own in scores])
    torch.testing.assert_close(net.readout.weights, torch.softmax(-losses, 0))
    assert not torch.equal(net.readout.weights, torch.ones(2))


def test_padding_alone_says_nothing_to_a_readout():
    ids, targets = padded(counting(8))
    nothing = torch.full_like(targets, IGNORED)
    nets = [language_model() for _ in range(2)]
    for net, batches in zip(nets, ([(ids, targets)], [(ids, targets), (ids, nothing)]), strict=True):
        net.readout = fo.Readout("validation", 2)
        fit_readout(net, take(batches, net.expected))
    assert torch.equal(nets[0].readout.weights, nets[1].readout.weights)
    with pytest.raises(ValueError, match="has no token that is to be predicted: all are -100"):
        fit_readout(nets[0], take([(ids, nothing)], nets[0].expected))


def test_numbers_are_the_mean_of_those_of_several_views(digits):
    brightness = digits.train.images.float().mean((1, 2, 3), keepdim=True).flatten(1)
    net = fo.mlp(digits.train.shape, [16], rule=fo.rules.Projection(classes=1, targets="number"))
    fo.fit(net, (digits.train.images, brightness), epochs=8, seed=0)
    plain = fo.evaluate(net, (digits.train.images, brightness))
    mirrored = fo.evaluate(net, (digits.train.images, brightness), views=fo.data.Views(mirror=True))
    assert plain.r2 > 0.8 and mirrored.r2 == pytest.approx(plain.r2, abs=0.1)


@pytest.mark.parametrize("of", [torch.tensor, np.array, list])
def test_numbers_that_float32_cannot_tell_apart_are_refused(of):
    seconds = [1.7e9 + 20 * math.sin(number) for number in range(50)]
    net = fo.mlp((3,), [4], rule=fo.rules.Projection(classes=1, targets="number"))
    given = torch.tensor(seconds, dtype=torch.float64) if of is torch.tensor else of(seconds)
    with pytest.raises(ValueError, match=r"numbers such as 1.7e\+09 differ by less than float32 keeps .*: subtract"):
        fo.fit(net, (drawn(50, 3), given), epochs=1)
    fo.fit(net, (drawn(50, 3), of([0.1] * 50)), epochs=1)  # one that never varies loses nothing
