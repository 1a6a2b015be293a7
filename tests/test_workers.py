"""Workers: the same bits as one worker, batches that are in flight at once, and errors that surface."""

import threading
from itertools import accumulate

import pytest
import torch

import forwardonly as fo
from forwardonly.training import step
from forwardonly.training.strategies.threads import Workers


def fit(images, rule="hyperspherical", **options):
    net = fo.mlp(images.shape, [12, 9, 8], rule=fo.rules.TABLE[rule](classes=4), seed=3)
    fixed = {"epochs": 3, "batch_size": 16, "seed": 5, "crop": 1, "precision": "fp32"}
    fixed["validation"] = images if net.labelled else None
    return fo.fit(net, images, **{**fixed, **options})


def same(one, other):
    """Whether two runs have the same weights, losses and accuracies, to the bit."""
    expected = one.network.state_dict()
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.history] for run in (one, other)]
    weights = other.network.state_dict()
    return timeless[0] == timeless[1] and all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


COUPLED = ("cff-fixed", "cff-adaptive", "layer-collaboration", "ff")  # or have a label classifier
ALONE = {
    **dict.fromkeys(("backprop", "simclr"), "cannot share 1 block"),
    **dict.fromkeys(COUPLED, "label classifier|goodness of all others"),
}


@pytest.mark.parametrize("rule", fo.rules.TABLE)
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_bits_of_one_or_a_reason(images, rule, workers):
    if rule in ALONE:
        with pytest.raises(ValueError, match=ALONE[rule]):
            fit(images, rule, workers=workers)
    else:
        assert same(fit(images, rule), fit(images, rule, workers=workers))


@pytest.mark.parametrize("delay", [0.2, 0.45])
def test_blocks_start_at_the_same_steps(images, delay):
    assert same(fit(images, "projection", delay=delay), fit(images, "projection", delay=delay, workers=2))


def test_batch_norms_and_muon_too():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (96, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = fo.data.Images(pictures, torch.arange(96) % 4, ("a", "b", "c", "d"), "random")
    runs = []
    for workers in (1, 3):
        rule = fo.rules.make("best", classes=4, channels=8)
        net = fo.build(fo.bodies.Six(width=0.125), images.shape, rule=rule, seed=1)
        runs.append(
            fo.fit(net, images, epochs=3, workers=workers, **{**fo.rules.training_defaults(rule), "batch_size": 16})
        )
    assert same(*runs)


def test_two_batches_are_under_way_at_once_and_no_more(images, monkeypatch):
    """The first block of a batch and the second block of the one before it wait for each other."""
    net = fo.mlp(images.shape, [12, 9, 8], rule=fo.rules.Projection(classes=4))
    meeting, learn = threading.Barrier(2, timeout=30), step.learn
    events = []

    def watched(block, *given):
        place = list(net.row).index(block)
        events.append(("begins", place))
        nth = events.count(("begins", place))
        if (place, nth) in ((0, 2), (1, 1)):
            meeting.wait()
        told = learn(block, *given)
        events.append(("ends", place))
        return told

    monkeypatch.setattr(step, "learn", watched)
    fo.fit(net, images.subset(torch.arange(48)), epochs=1, batch_size=16, workers=2)
    busy = list(accumulate(1 if what == "begins" else -1 for what, _ in events))
    assert len(events) == 2 * 9 and max(busy) == 2


def test_what_stops_a_batch_is_what_the_run_says(images):
    net = fo.mlp(images.shape, [12, 9, 8], rule=fo.rules.Projection(classes=4))
    calls = []

    def fail(block, given):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no room for block 1")

    net.row[1].register_forward_pre_hook(fail)
    threads = torch.get_num_threads()
    with pytest.raises(MemoryError, match="no room for block 1"):
        fo.fit(net, images, epochs=2, batch_size=8, workers=3)
    assert len(calls) == 3, "a batch went on behind the one that was stopped"
    assert torch.get_num_threads() == threads
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_the_threads_are_divided_and_given_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    seen = []
    try:
        with Workers(2) as workers:
            for _ in range(4):
                workers.begin(lambda turn: seen.append(torch.get_num_threads()))
        assert seen == [2, 2, 2, 2] and torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(threads)


def test_a_loss_that_is_not_finite_is_named(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4))
    with torch.no_grad():
        net.row[1].body[1].weight[0, 0] = float("nan")
    with pytest.raises(fo.training.NonFiniteLoss, match="block 1 became nan in epoch 0, step 0"):
        fo.fit(net, images, epochs=2, workers=2)


@pytest.mark.parametrize(
    ("rule", "options", "sentence"),
    [
        ("projection", {"workers": 0}, "workers must be at least 1, not 0"),
        ("projection", {"workers": 4}, r"4 workers cannot share 3 block\(s\): choose 1"),
        ("backprop", {"workers": 2}, r"2 workers cannot share 1 block\(s\): choose 1"),
    ],
)
def test_what_workers_cannot_share_is_refused(images, rule, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(images, rule, **options)
