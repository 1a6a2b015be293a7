"""Peer goodness: no block is computed twice, greedy training's cache changes nothing, no gradient crosses."""

from collections import Counter

import pytest
import torch

import forwardonly as fo
from forwardonly.network.block import Block
from forwardonly.training.batch import Batch
from forwardonly.training.step import Context
from forwardonly.training.strategies import cache, whole_step
from forwardonly.training.strategies.greedy import learn_alone
from forwardonly.training.update import Update

READING = {
    "all": lambda: fo.rules.CollaborativeAdaptive(classes=4, negatives="fixed"),
    "earlier": lambda: fo.rules.Cumulative(classes=4),
    "none": lambda: fo.rules.ForwardForward(classes=4, negatives="fixed"),
}


@pytest.fixture
def counted(monkeypatch):
    """How often each block was computed."""
    calls = Counter()
    forward = Block.forward

    def counting(self, incoming):
        calls[id(self)] += 1
        return forward(self, incoming)

    monkeypatch.setattr(Block, "forward", counting)
    return calls


def prepared(images, peers, hidden=(12, 10, 8, 6)):
    net = fo.mlp(images.shape, hidden, rule=READING[peers]())
    updates = [Update(block, fo.training.TrainingConfig()) for block in net.row]
    return net, updates, net.present(images.images, images.labels, wrong=(images.labels + 1) % 4)


@pytest.mark.parametrize("peers", READING)
def test_no_block_is_computed_twice_in_a_step(images, peers, counted):
    net, updates, signal = prepared(images, peers)
    whole_step(net, updates, Batch(signal, images.labels), Context("fp32"))
    assert [counted[id(block)] for block in net.row] == [1, 1, 1, 1]


@pytest.mark.parametrize("peers", READING)
def test_greedy_steps_behind_a_cache_compute_no_earlier_block(images, peers, counted):
    net, updates, _ = prepared(images, peers)
    store = cache.Cache(net, images, (images.labels + 1) % 4, "fp32")
    store.move_to(2)
    counted.clear()
    for _ in range(3):
        learn_alone(net.row, 2, updates[2], store.batch(torch.arange(len(images))), Context("fp32"))
    later = 3 if peers == "all" else 0
    assert [counted[id(block)] for block in net.row] == [0, 0, 3, later]


@pytest.mark.parametrize("peers", READING)
def test_a_step_moves_each_block_by_its_own_loss_alone(images, peers):
    net, updates, signal = prepared(images, peers)
    told, incoming = [], signal
    for block in net.row:
        activation = block(incoming)
        told.append(block.rule.streams(activation))
        incoming = block.pass_on(activation, incoming)
    rows = fo.rules.PeerGoodness(*(torch.stack([t.detach() for t in stream]) for stream in zip(*told, strict=True)))
    expected = []
    for index, (block, own) in enumerate(zip(net.row, told, strict=True)):
        given = {"all": rows, "none": None}.get(peers, fo.rules.PeerGoodness(*(stream[:index] for stream in rows)))
        expected.append(torch.autograd.grad(block.rule.loss(*own, given), list(block.body.parameters())))
    seen = []
    for update, block in zip(updates, net.row, strict=True):
        update.optimisers[0].register_step_pre_hook(
            lambda *_, block=block: seen.append([p.grad.clone() for p in block.body.parameters()])
        )
    whole_step(net, updates, Batch(signal, images.labels), Context("fp32"))
    for block_gradients, ours in zip(expected, seen, strict=True):
        for one, other in zip(block_gradients, ours, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("peers", READING)
@pytest.mark.parametrize("batch_size", [80, 20])
def test_the_cache_changes_nothing_but_rounding(images, peers, batch_size, monkeypatch):
    def weights(most_bytes):
        monkeypatch.setattr(cache, "MOST_BYTES", most_bytes)
        net = fo.mlp(images.shape, [12, 10, 8], rule=READING[peers]())
        options = {"epochs": 3, "schedule": "greedy", "precision": "fp32", "optimiser": "sgd"}
        run = fo.fit(net, images, batch_size=batch_size, **options)
        assert [row["block"] for row in run.history] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])

    torch.testing.assert_close(weights(2**30), weights(0), rtol=1e-5, atol=1e-6)


def test_the_cache_waits_for_nothing_random(images):
    def repeats(rule, dropout=0.0, **options):
        net = fo.mlp(images.shape, [12, 10], rule=rule, dropout=dropout)
        return cache.repeats(net, images, fo.training.TrainingConfig(**options))

    ff, one_pass = fo.rules.ForwardForward(classes=4, negatives="uniform"), fo.rules.Hyperspherical(classes=4)
    fixed = fo.rules.ForwardForward(classes=4, negatives="fixed")
    assert repeats(fixed)
    assert repeats(one_pass)
    assert not repeats(ff)
    assert not repeats(fixed, dropout=0.1)
    assert not repeats(one_pass, crop=1)


def test_wrong_labels_drawn_once_stay(images, monkeypatch):
    seen = {}
    present = fo.Network.present

    def watching(self, batch, labels, generator=None, wrong=None, logits=None):
        if wrong is not None and len(batch) == 20:
            for image, label in zip(batch, wrong.tolist(), strict=True):
                seen.setdefault(image.numpy().tobytes(), set()).add(label)
        return present(self, batch, labels, generator, wrong, logits)

    monkeypatch.setattr(fo.Network, "present", watching)
    net = fo.mlp(images.shape, [12], rule=fo.rules.ForwardForward(classes=4, negatives="fixed"))
    fo.fit(net, images, epochs=4, batch_size=20)
    assert len(seen) == 80 and all(len(labels) == 1 for labels in seen.values())


@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_a_killed_run_resumes_to_the_same_bits(images, tmp_path, schedule):
    """Gamma's optimiser and the cache are part of the state."""
    options = {"epochs": 4, "batch_size": 40, "schedule": schedule, "momentum": 0.5}

    def network():
        rule = fo.rules.CollaborativeAdaptive(classes=4, negatives="fixed")
        return fo.mlp(images.shape, [12, 10], rule=rule)

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.row is not None and len(rows) == 2:
            raise Killed
        if progress.row is not None:
            rows.append(progress.row)

    rows = []
    whole = fo.fit(network(), images, **options)
    with pytest.raises(Killed):
        fo.fit(network(), images, out=tmp_path / "run", progress=kill, **options)
    resumed = fo.fit(network(), images, out=tmp_path / "run", resume=True, **options)
    for one, other in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert [row["gamma"] for row in whole.history] == [row["gamma"] for row in resumed.history]
