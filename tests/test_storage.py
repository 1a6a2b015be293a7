"""Networks in files."""

import json
import os

import pytest
import torch

import forwardonly as fo
from forwardonly.network import storage

LABELLED = [name for name, entry in fo.rules.TABLE.items() if fo.rules.rule_class(entry).labelled]


@pytest.mark.parametrize("rule_name", LABELLED)
def test_a_loaded_network_gives_the_same_scores(images, tmp_path, rule_name):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.TABLE[rule_name](classes=4), seed=7, readout="last")
    fo.fit(net, images, epochs=1, batch_size=16)
    fo.save(net, tmp_path / "net")
    loaded = fo.load(tmp_path / "net")
    assert torch.equal(loaded.scores(images.images), net.scores(images.images))
    assert torch.equal(loaded(images.images), net(images.images))
    assert not loaded.training


@pytest.mark.parametrize(
    ("rule_name", "options"),
    [
        ("projection", {"features": 10**6}),
        ("best", {"features": 10**6}),
        ("bilinear", {"features": 10**6, "group": 10**6, "window": 10**6}),
        ("channel-learnable", {"features": 10**6, "warmup_epochs": 10**6}),
        ("ff-unsupervised", {"blurs": 10**6}),
    ],
)
def test_a_small_network_may_have_large_upper_bounds(images, tmp_path, rule_name, options):
    net = fo.mlp(images.shape, [12], rule=fo.rules.make(rule_name, classes=4, **options))
    fo.save(net, tmp_path)
    assert fo.load(tmp_path).row[0].rule.options() == net.row[0].rule.options()


def test_a_label_classifier_is_saved_too(images, tmp_path):
    rule = fo.rules.ForwardForward(classes=4, negatives="hard", predict="softmax")
    net = fo.mlp(images.shape, [12, 9], rule=rule)
    fo.fit(net, images, epochs=1, batch_size=16)
    fo.save(net, tmp_path)
    assert torch.equal(fo.load(tmp_path).scores(images.images), net.scores(images.images))


@pytest.fixture
def saved(images, tmp_path):
    fo.save(fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4)), tmp_path)
    return tmp_path


def damage(folder, name, change):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(change(content))


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("model.safetensors", lambda b: b[: len(b) // 2], "damaged"),
        ("model.safetensors", lambda b: b"\xff" * 8 + b[8:], "damaged"),
        ("model.safetensors", lambda b: b"", "damaged"),
        ("config.json", lambda b: b[: len(b) // 2], "cannot be read"),
        ("config.json", lambda b: b"[]", "describes no network"),
        ("config.json", lambda b: b"[" * 100_000, "cannot be read"),
        ("config.json", lambda b: b.replace(b"12", b"13"), "does not hold the weights"),
        ("config.json", lambda b: b.replace(b'"mlp"', b'"os.system"'), "Unknown body"),
    ],
)
def test_damaged_files_are_refused(saved, name, change, sentence):
    damage(saved, name, change)
    with pytest.raises(ValueError, match=sentence):
        fo.load(saved)


def test_a_folder_without_a_network_is_refused(tmp_path, saved):
    with pytest.raises(ValueError, match="not a run folder"):
        fo.load(tmp_path / "nothing")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="not finished"):
        fo.load(saved)


def test_what_a_run_measured_is_read_or_refused(tmp_path):
    assert storage.read_result(tmp_path) == {}
    (tmp_path / "result.json").write_text('{"test_accuracy": 0.5}')
    assert storage.read_result(tmp_path) == {"test_accuracy": 0.5}
    for damage in ('{"test_accu', "[0.5]", "\xff"):
        (tmp_path / "result.json").write_bytes(damage.encode("latin1"))
        with pytest.raises(ValueError, match=r"result\.json is damaged"):
            storage.read_result(tmp_path)


def test_what_a_run_recorded_of_its_epochs_is_read_or_refused(tmp_path):
    assert storage.read_history(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"loss": [1.0]}\n{"loss": [null]}\n')
    assert storage.read_history(tmp_path) == [{"loss": [1.0]}, {"loss": [None]}]
    for damage in ('{"loss": [1.0', "3", '{"loss": 3}', "{}", "[" * 100_000, "\xff"):
        (tmp_path / "metrics.jsonl").write_bytes(damage.encode("latin1"))
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged: .*\.$"):
            storage.read_history(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(images, tmp_path):
    (tmp_path / "file").write_text("in the way")
    net = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    with pytest.raises(ValueError, match="Cannot write"):
        fo.save(net, tmp_path / "file" / "net")


def test_a_network_built_by_hand_says_that_it_cannot_be_saved(images, tmp_path):
    built = fo.mlp(images.shape, [12], rule=fo.rules.Hyperspherical(classes=4))
    by_hand = fo.Network(built.row, shape=images.shape)
    with pytest.raises(ValueError, match="built by hand"):
        fo.save(by_hand, tmp_path)


def test_nothing_temporary_is_left(saved):
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    assert json.loads((saved / "config.json").read_text())["network"]["body"] == {
        "name": "mlp",
        "hidden": [12],
        "dropout": 0.0,
    }


def test_what_a_folder_holds_is_not_lost(images, tmp_path):
    net = fo.mlp(images.shape, [12], rule=fo.rules.Projection(classes=4))
    fo.save(net, tmp_path / "net")
    fo.save(net, tmp_path / "net")  # the user's own, again
    with pytest.raises(ValueError, match="net already holds a network: choose another folder"):
        fo.fit(net, images, epochs=1, out=tmp_path / "net")
    fo.fit(net, images, epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match="run holds a finished run, whose result is its own network's: choose another"):
        fo.save(fo.mlp(images.shape, [9], rule=fo.rules.Projection(classes=4)), tmp_path / "run")
    assert fo.load(tmp_path / "run").config["body"]["hidden"] == (12,)
