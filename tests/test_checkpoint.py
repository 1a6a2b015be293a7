"""Checkpoints: complete, ordered, safe to read; and damage and errors of the disk."""

import json
import math
import pickle
import resource
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save

import forwardonly as fo
from forwardonly.training.runs import checkpoint


def state(value=1.0):
    return {
        "tensors": [torch.full((3, 2), value), torch.tensor(7), torch.zeros(0, 4, dtype=torch.bool)],
        "state": {0: {"step": torch.tensor(2.0), "half": torch.ones(2, dtype=torch.bfloat16)}},
        "plain": [1, 0.1 + 0.2, None, True, "wörds", [], {}],
        "loss": math.inf,
    }


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoint.write(tmp_path, state())
    back = checkpoint.read(tmp_path)
    for one, two in zip(back["tensors"], state()["tensors"], strict=True):
        assert one.dtype == two.dtype and torch.equal(one, two)
    assert back["state"][0]["half"].dtype == torch.bfloat16
    assert back["plain"] == state()["plain"] and back["loss"] == math.inf


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    base = torch.arange(4.0)
    checkpoint.write(tmp_path, {"a": base, "b": base[:2], "c": base.view(2, 2).T})
    back = checkpoint.read(tmp_path)
    assert torch.equal(back["c"], base.view(2, 2).T) and torch.equal(back["b"], base[:2])


def test_the_newest_is_read_and_two_are_kept(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".state.77.tmp").write_bytes(b"a write that was killed")
    for value in range(5):
        checkpoint.write(tmp_path, state(value))
    assert checkpoint.read(tmp_path)["tensors"][0][0, 0] == 4
    assert sorted(path.name[:8] for path in (tmp_path / "checkpoint").iterdir()) == ["00000004", "00000005"]


def test_a_damaged_one_is_passed_over_for_the_one_before_it(tmp_path):
    for value in range(2):
        checkpoint.write(tmp_path, state(value))
    older, newest = sorted((tmp_path / "checkpoint").iterdir())
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1  # one bit
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged: .* Going on from the one before"):
        assert checkpoint.read(tmp_path)["tensors"][0][0, 0] == 0
    older.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.read(tmp_path)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def named(content):
    """A file name whose hash fits, as whoever forges a checkpoint would make it."""
    import hashlib

    return f"00000009-{hashlib.sha256(content).hexdigest()}.safetensors"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        b"",
        b"\xff" * 16,
        (2**62).to_bytes(8, "little") + b"{}",
        save({"0": torch.zeros(2)}),
        save({}, {"tree": "[" * 100_000}),
        save({}, {"tree": '{"pairs": [["a", {"tensor": "0"}]]}'}),
        save({}, {"tree": '{"pairs": 3}'}),
        save({}, {"tree": "[1]"}),
        save({}, {"tree": '{"pairs": [[[], 1]]}'}),
    ],
)
def test_a_forged_one_is_refused_and_not_run(tmp_path, content):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / named(content)).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.read(tmp_path)


def fit(images, folder, **options):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4))
    return fo.fit(net, images, out=folder, batch_size=16, **{"epochs": 4, "seed": 1, **options})


def stop_after(step):
    def progress(at):
        if at.step == step and at.row is None:
            raise KeyError("as if the process had died here")

    return progress


def forge(folder, change):
    """Rewrites the newest checkpoint, hash and all."""
    kept = checkpoint.read(folder)
    change(kept)
    shutil.rmtree(folder / "checkpoint")
    checkpoint.write(folder, kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("updates"),
        lambda kept: kept.update(updates=[]),
        lambda kept: kept.update(network=kept["updates"]),
        lambda kept: kept["network"].popitem(),
        lambda kept: kept["progress"].update(epoch=-1),
        lambda kept: kept["progress"].update(epoch="1"),
        lambda kept: kept["progress"].update(step=10**9),
        lambda kept: kept.update(losses=torch.zeros(1)),
        lambda kept: kept["updates"][0]["optimisers"][0]["param_groups"][0].update(lr="fast"),
        lambda kept: kept["updates"][0]["optimisers"][0]["param_groups"][0].pop("betas"),
        lambda kept: kept["updates"][0]["optimisers"][0]["state"][0].update(exp_avg=torch.zeros(1)),
        lambda kept: kept["updates"][0]["optimisers"][0]["state"].update({99: {}}),
        lambda kept: kept["updates"][0]["optimisers"][0].update(state=[]),
    ],
)
def test_a_sound_file_with_another_content_is_refused(images, tmp_path, change):
    with pytest.raises(KeyError):
        fit(images, tmp_path, progress=stop_after(7))
    forge(tmp_path, change)
    with pytest.raises(ValueError):
        fit(images, tmp_path, resume=True)


def test_a_run_killed_before_its_first_checkpoint_starts_again(images, tmp_path):
    whole = fit(images, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(images, tmp_path / "cut", progress=stop_after(2))
    assert not (tmp_path / "cut" / "checkpoint").exists()
    again = fit(images, tmp_path / "cut", resume=True)
    assert all(torch.equal(t, whole.network.state_dict()[n]) for n, t in again.network.state_dict().items())


def test_a_run_killed_between_its_last_checkpoint_and_its_last_line_of_metrics_lacks_nothing(images, tmp_path):
    history = fit(images, tmp_path).history
    (tmp_path / "result.json").unlink()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    fit(images, tmp_path, resume=True)
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == history


def test_checkpoints_within_an_epoch_go_on_to_the_same_bits(images, tmp_path):
    whole = fit(images, tmp_path / "whole", checkpoint_every=2)
    with pytest.raises(KeyError):
        fit(images, tmp_path / "cut", checkpoint_every=2, progress=stop_after(8))
    assert checkpoint.read(tmp_path / "cut")["progress"]["step"] == 2
    again = fit(images, tmp_path / "cut", checkpoint_every=2, resume=True)
    assert all(torch.equal(t, whole.network.state_dict()[n]) for n, t in again.network.state_dict().items())
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]


def test_a_full_disk_leaves_the_last_good_checkpoint(images, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(at):
        if at.step == 12 and at.row is None:  # from here on no file may grow beyond 100 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    whole = fit(images, tmp_path / "whole")
    try:
        with pytest.raises(ValueError, match="File too large; the last good one is kept"):
            fit(images, tmp_path / "cut", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "cut").rglob("*.tmp"))
    again = fit(images, tmp_path / "cut", resume=True)
    assert all(torch.equal(t, whole.network.state_dict()[n]) for n, t in again.network.state_dict().items())


def test_a_folder_that_becomes_read_only_leaves_the_last_good_checkpoint(images, tmp_path):
    def lock(at):
        if at.step == 7 and at.row is None:  # also root cannot make files in /proc
            (tmp_path / "checkpoint").rename(tmp_path / "good")
            (tmp_path / "checkpoint").symlink_to("/proc")

    with pytest.raises(ValueError, match="the last good one is kept"):
        fit(images, tmp_path, progress=lock)
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "good").rename(tmp_path / "checkpoint")
    assert fit(images, tmp_path, resume=True).history[-1]["epoch"] == 3


def test_data_that_vanish_in_mid_run_are_not_missed(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "set.npz"
    np.savez(path, x=rng.integers(0, 256, (60, 6, 6), dtype=np.uint8), y=np.arange(60) % 3)
    train, _, test = fo.data.load(path)
    net = fo.mlp(train.shape, [8], rule=fo.rules.Hyperspherical(classes=3))

    def vanish(at):
        path.unlink(missing_ok=True)

    run = fo.fit(net, train, test=test, epochs=2, batch_size=16, out=tmp_path / "run", progress=vanish)
    assert run.result["test_accuracy"] == fo.evaluate(net, test).accuracy
    with pytest.raises(ValueError, match="there is no such"):
        fo.data.load(path)


def spoil_after(net, step, value=math.nan):
    """Puts `value` into block 1 after a step, as if its update had overflowed."""

    def progress(at):
        if at.step == step and at.row is None:
            with torch.no_grad():
                next(net.row[1].body.parameters()).fill_(value)

    return progress


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rule_name", sorted(set(fo.rules.TABLE) - {"backprop", "simclr"}))
def test_what_is_not_finite_stops_every_rule_with_block_epoch_and_step(images, tmp_path, rule_name, value):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.TABLE[rule_name](classes=4))
    reads_all = getattr(net.rule, "needs_peers", "none") == "all"  # then the first block's loss hangs on the second one
    named = rf"(loss|weight) of block {'[01]' if reads_all else 1} became .* in epoch 1, (by )?step \d"
    with pytest.raises(fo.training.NonFiniteLoss, match=named):
        fo.fit(net, images, epochs=4, batch_size=16, out=tmp_path, progress=spoil_after(net, 7, value))
    kept = checkpoint.read(tmp_path)
    assert kept["progress"]["epoch"] == 1 and kept["progress"]["step"] == 0
    assert all(bool(torch.isfinite(t).all()) for t in kept["network"].values() if t.is_floating_point())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["epoch"] == 0


def test_weights_spoilt_by_the_last_step_of_an_epoch_are_not_kept(images, tmp_path):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(
        fo.training.NonFiniteLoss, match="weight of block 1 became NaN or infinite in epoch 1, by step 4"
    ):
        fo.fit(net, images, epochs=4, batch_size=16, out=tmp_path, progress=spoil_after(net, 10))
    assert checkpoint.read(tmp_path)["progress"]["epoch"] == 1


BODIES = {
    "conv": (fo.bodies.Conv(depth=2, channels=6), 8),
    "six": (fo.bodies.TABLE["six"](width=0.06), 32),
    "vgg8b": (fo.bodies.TABLE["vgg8b"](width=0.04), 32),
    "resnet17": (fo.bodies.ResNet17(width=0.06), 8),
    "resnet18": (fo.bodies.ResNet18(width=0.06, walls=5), 8),
}
OPTIMISERS = ("sgd", "adamw", "muon", "rmsprop", "nadam", "adafactor")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize(
    "body", [pytest.param(name, marks=[] if name == "conv" else pytest.mark.slow) for name in BODIES]
)
def test_convolutional_blocks_go_on_to_the_same_bits(tmp_path, body, optimiser):
    """Their weights lie channels last, what a checkpoint holds does not, and fused optimisers look at places alone."""
    shape, side = BODIES[body]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (64, 3, side, side), dtype=torch.uint8, generator=generator)
    train = fo.data.Images(pictures, torch.arange(64) % 4, ("a", "b", "c", "d"), "random")

    def run(folder, **how):
        net = fo.build(shape, train.shape, rule=fo.rules.Projection(classes=4), seed=3)
        fixed = {"epochs": 2, "batch_size": 16, "optimiser": optimiser, "checkpoint_every": 2, "learning_rate": 0.01}
        return fo.fit(net, train, out=folder, **fixed, **how)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyError):
        run(tmp_path / "cut", progress=stop_after(3))
    again = run(tmp_path / "cut", resume=True)
    assert all(torch.equal(t, whole.network.state_dict()[n]) for n, t in again.network.state_dict().items())


@pytest.mark.parametrize("optimiser", ["adamw", "muon", "rmsprop"])
def test_a_convolutional_network_that_was_saved_learns_as_if_it_had_not_been(tmp_path, optimiser):
    """Its weights come back from the file in another order in memory than they had."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)
    train = fo.data.Images(pictures, torch.arange(64) % 4, ("a", "b", "c", "d"), "random")
    ends = []
    for saved in (False, True):
        net = fo.build(BODIES["conv"][0], train.shape, rule=fo.rules.Projection(classes=4), seed=3)
        options = {"batch_size": 16, "optimiser": optimiser, "learning_rate": 0.01}
        fo.fit(net, train, epochs=1, **options)
        if saved:
            fo.save(net, tmp_path)
            net = fo.load(tmp_path)
        fo.fit(net, train, epochs=2, seed=1, **options)
        ends.append(net.state_dict())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
