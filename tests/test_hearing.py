"""Blocks that hear others: no block is computed twice, greedy training's cache changes nothing, no gradient crosses."""

from collections import Counter

import pytest
import torch

import forwardonly as fo
from forwardonly.network.block import Block
from forwardonly.training.step import learn_all
from forwardonly.training.strategies import cache
from forwardonly.training.update import Update

HEARING = {
    "all": lambda: fo.rules.CollaborativeAdaptive(classes=4, negatives="uniform"),
    "earlier": lambda: fo.rules.Cumulative(classes=4),
    "none": lambda: fo.rules.ForwardForward(classes=4, negatives="uniform"),
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


def prepared(images, wants, hidden=(12, 10, 8, 6)):
    net = fo.mlp(images.shape, hidden, rule=HEARING[wants]())
    updates = [Update(block, fo.training.TrainingConfig()) for block in net.row]
    return net, updates, net.present(images.images, images.labels, wrong=(images.labels + 1) % 4)


@pytest.mark.parametrize("wants", HEARING)
def test_no_block_is_computed_twice_in_a_step(images, wants, counted):
    net, updates, signal = prepared(images, wants)
    learn_all(net.row, updates, signal, images.labels, "fp32")
    assert [counted[id(block)] for block in net.row] == [1, 1, 1, 1]


@pytest.mark.parametrize("wants", HEARING)
def test_greedy_steps_behind_a_cache_compute_no_earlier_block(images, wants, counted):
    net, updates, _ = prepared(images, wants)
    store = cache.Cache(net, images, (images.labels + 1) % 4, "fp32")
    store.move_to(2)
    counted.clear()
    for _ in range(3):
        store.learn(updates[2], torch.arange(len(images)))
    later = 3 if wants == "all" else 0
    assert [counted[id(block)] for block in net.row] == [0, 0, 3, later]


@pytest.mark.parametrize("wants", HEARING)
def test_a_step_moves_each_block_by_its_own_loss_alone(images, wants):
    net, updates, signal = prepared(images, wants)
    told, incoming = [], signal
    for block in net.row:
        activation = block(incoming)
        told.append(block.rule.streams(activation))
        incoming = block.pass_on(activation, incoming)
    rows = fo.rules.PeerGoodness(*(torch.stack([t.detach() for t in stream]) for stream in zip(*told, strict=True)))
    expected = []
    for index, (block, own) in enumerate(zip(net.row, told, strict=True)):
        peers = {"all": rows, "none": None}.get(wants, fo.rules.PeerGoodness(*(stream[:index] for stream in rows)))
        expected.append(torch.autograd.grad(block.rule.loss(*own, peers), list(block.body.parameters())))
    seen = []
    for update, block in zip(updates, net.row, strict=True):
        update.optimisers[0].register_step_pre_hook(
            lambda *_, block=block: seen.append([p.grad.clone() for p in block.body.parameters()])
        )
    learn_all(net.row, updates, signal, images.labels, "fp32")
    for block_gradients, ours in zip(expected, seen, strict=True):
        for one, other in zip(block_gradients, ours, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wants", HEARING)
@pytest.mark.parametrize("batch_size", [80, 20])
def test_the_cache_changes_nothing_but_rounding(images, wants, batch_size, monkeypatch):
    """Nor does the product that both streams share in the first layer."""

    def weights(most_bytes):
        monkeypatch.setattr(cache, "MOST_BYTES", most_bytes)
        net = fo.mlp(images.shape, [12, 10, 8], rule=HEARING[wants]())
        options = {"epochs": 3, "schedule": "greedy", "redraw": "once", "precision": "fp32", "optimiser": "sgd"}
        run = fo.fit(net, images, batch_size=batch_size, **options)
        assert [row["block"] for row in run.history] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])

    torch.testing.assert_close(weights(2**30), weights(0), rtol=1e-5, atol=1e-6)


def test_the_cache_waits_for_nothing_random(images):
    def repeats(rule, dropout=0.0, **options):
        net = fo.mlp(images.shape, [12, 10], rule=rule, dropout=dropout)
        return cache.repeats(net, images, fo.training.TrainingConfig(**options))

    ff, one_pass = fo.rules.ForwardForward(classes=4, negatives="uniform"), fo.rules.Hyperspherical(classes=4)
    assert repeats(ff, schedule="greedy", redraw="once")
    assert repeats(one_pass, schedule="greedy")
    assert not repeats(ff, schedule="greedy")
    assert not repeats(ff, redraw="once")
    assert not repeats(ff, dropout=0.1, schedule="greedy", redraw="once")
    assert not repeats(one_pass, schedule="greedy", crop=1)


def test_wrong_labels_drawn_once_stay(images, monkeypatch):
    seen = {}
    present = fo.Network.present

    def watching(self, batch, labels, generator=None, wrong=None, logits=None):
        if wrong is not None and len(batch) == 20:
            for image, label in zip(batch, wrong.tolist(), strict=True):
                seen.setdefault(image.numpy().tobytes(), set()).add(label)
        return present(self, batch, labels, generator, wrong, logits)

    monkeypatch.setattr(fo.Network, "present", watching)
    net = fo.mlp(images.shape, [12], rule=fo.rules.ForwardForward(classes=4, negatives="uniform"))
    fo.fit(net, images, epochs=4, batch_size=20, redraw="once")
    assert len(seen) == 80 and all(len(labels) == 1 for labels in seen.values())
    with pytest.raises(ValueError, match="drawn once cannot be hard"):
        net = fo.mlp(images.shape, [12], rule=fo.rules.ForwardForward(classes=4, negatives="hard"))
        fo.fit(net, images, redraw="once")


@pytest.mark.parametrize("schedule", ["simultaneous", "greedy"])
def test_a_killed_run_resumes_to_the_same_bits(images, tmp_path, schedule):
    """Gamma's own optimiser and the cache are part of the state."""
    options = {"epochs": 4, "batch_size": 40, "schedule": schedule, "redraw": "once", "momentum": 0.5}

    def network():
        rule = fo.rules.CollaborativeAdaptive(classes=4, gamma_optimiser="adam", negatives="uniform")
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
