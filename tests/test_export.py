"""Export: without this library, exported networks predict the same and exported training steps learn the same."""

import json
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.export import export_network, export_training_step, input_about, training_step
from forwardonly.export.step import race
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

RATE = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}
BODIES = {
    "mlp": (fo.bodies.MLP(hidden=(16, 16)), (1, 6, 6)),
    "cnn": (fo.bodies.CNN(width=0.1), (3, 16, 16)),
    "six": (fo.bodies.Six(width=0.1), (3, 16, 16)),
    "transformer": (fo.bodies.Transformer(), (3, 8, 8)),
}


def images_of(shape, count=48, classes=4):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return fo.data.Images(pixels, torch.arange(count) % classes, tuple("abcd"[:classes]), "random")


def network(rule_name, body="mlp"):
    options = {"negatives": "uniform"} if hasattr(fo.rules.TABLE[rule_name], "negatives") else {}
    body, shape = BODIES[body]
    net = fo.build(body, shape, rule=fo.rules.TABLE[rule_name](classes=4, **options))
    net.prepare.fit(images_of(shape).images)
    return net.train()


LABELLED = [name for name, entry in fo.rules.TABLE.items() if fo.rules.rule_class(entry).labelled]
CASES = [
    *((rule, "mlp", "sgd") for rule in LABELLED if not rule.startswith("channel")),
    ("hyperspherical", "mlp", "adam"),
    ("hyperspherical", "mlp", "adamw"),
    ("channel-static", "cnn", "sgd"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("channel-learnable", "cnn", "sgd"),
            ("projection", "six", "sgd"),
            ("projection", "transformer", "sgd"),
        )
    ),
]


@pytest.mark.parametrize(("rule", "body", "optimiser"), CASES)
def test_the_plain_graph_learns_as_autograd_does(rule, body, optimiser):
    net = network(rule, body)
    images = images_of(net.shape)
    options = {"optimiser": optimiser, "learning_rate": RATE[optimiser], "weight_decay": 0.01, "clip": 1.0}
    step = training_step(net, batch_size=16, **options)
    recipe = TrainingConfig.resolve(net.rule, given=options)
    updates = [Update(block, recipe) for block in net.row]
    state = step.state
    for k in range(3):
        some = images.subset(torch.arange(16 * k, 16 * k + 16))
        given = {"images": some.images, "labels": some.labels, "learning_rate": torch.tensor(RATE[optimiser])}
        wrong = (some.labels + 1 + k) % 4
        if "wrong_labels" in step.inputs:
            given["wrong_labels"] = wrong
        losses, state = step(state, **given)
        first = Batch(net.present(some.images, some.labels, wrong=wrong), some.labels)
        expected = whole_step(net, updates, first, Context("fp32"))
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    ours = net.state_dict()
    compared = [name for name in state if name in ours]
    assert compared
    for name in compared:
        torch.testing.assert_close(state[name], ours[name], rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("rule", ["hyperspherical", "ff"])
def test_no_derivative_is_left_in_the_graph(rule):
    step = training_step(network(rule), batch_size=8)
    called = {str(node.target) for node in step.graph.graph.nodes if node.op == "call_function"}
    assert called and not any(word in name for name in called for word in ("backward", "assert", "autograd", "grad_"))
    assert not any(tensor.requires_grad for tensor in step.state.values())


def test_hard_negatives_and_their_reader_learn_in_the_graph(digits):
    net = fo.mlp(digits.train.shape, (64, 64), rule=fo.rules.ForwardForward(classes=10, negatives="hard"))
    net.prepare.fit(digits.train.images)
    step = training_step(net, batch_size=64, optimiser="adamw", learning_rate=3e-3)
    state, generator = step.state, torch.Generator().manual_seed(0)
    for _ in range(12):
        for chosen in torch.randperm(len(digits.train), generator=generator).split(64)[:-1]:
            some = digits.train.subset(chosen)
            chance = torch.rand(64, 10, generator=generator)
            _, state = step(
                state, images=some.images, labels=some.labels, chance=chance, learning_rate=torch.tensor(3e-3)
            )
    net.load_state_dict({**net.state_dict(), **{name: state[name] for name in state if name in net.state_dict()}})
    assert fo.evaluate(net, digits.test, precision="fp32").accuracy > 0.9


def test_race_draws_wrong_labels_by_their_chances():
    labels, logits = torch.zeros(40_000, dtype=torch.long), torch.tensor([9.0, 2.0, 0.0, -1.0]).expand(40_000, 4)
    drawn = race(labels, logits, torch.rand(40_000, 4, generator=torch.Generator().manual_seed(0)))
    share = torch.bincount(drawn, minlength=4) / 40_000
    expected = torch.cat([torch.zeros(1), torch.softmax(logits[0, 1:], 0)])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("rule", "body"), [("ff", "mlp"), pytest.param("hyperspherical", "cnn", marks=pytest.mark.slow)]
)
def test_onnxruntime_computes_the_same_step(rule, body, tmp_path):
    body, shape = BODIES[body]  # the rules as they are: here with hard negatives
    net = fo.build(body, shape, rule=fo.rules.TABLE[rule](classes=4))
    images = images_of(shape)
    net.prepare.fit(images.images)
    step = training_step(net, batch_size=48, optimiser="sgd", learning_rate=0.05)
    export_training_step(net, step, tmp_path, format="onnx")
    given = {"images": images.images, "labels": images.labels, "learning_rate": torch.tensor(0.05)}
    if rule == "ff":
        given["chance"] = torch.rand(48, 4, generator=torch.Generator().manual_seed(0))
    learning, state = session(tmp_path / "training-step.onnx"), step.state
    theirs = {name: tensor.numpy() for name, tensor in state.items()}
    for _ in range(2):
        _, state = step(state, **given)
        feeds = {name: tensor.numpy() for name, tensor in given.items()}
        theirs = dict(zip(state, learning.run(None, {**feeds, **theirs})[1:], strict=True))
    for name, tensor in state.items():
        assert np.abs(theirs[name] - tensor.numpy()).max() < 1e-4, name


@pytest.mark.slow
def test_onnxruntime_trains_digits_from_scratch(tmp_path, digits):
    net = fo.mlp(digits.train.shape, (100, 100), rule=fo.rules.Hyperspherical(classes=10))
    net.prepare.fit(digits.train.images)
    step = training_step(net, batch_size=32, optimiser="adamw", learning_rate=3e-3)
    export_training_step(net, step, tmp_path, format="onnx")
    state, interface = safetensors.numpy.load_file(tmp_path / "state.safetensors"), read(tmp_path / "interface.json")
    learning, predicting = (session(tmp_path / f"{name}.onnx") for name in ("training-step", "prediction"))
    assert [each.name for each in learning.get_inputs()] == [each["name"] for each in interface["inputs"]]
    images, labels, draw = digits.train.images.numpy(), digits.train.labels.numpy(), np.random.default_rng(0)
    epochs = 15
    for epoch in range(epochs):
        rate = np.array(3e-3 * (1 - epoch / epochs), np.float32)
        for chosen in np.array_split(draw.permutation(len(labels))[: len(labels) // 32 * 32], len(labels) // 32):
            given = {"images": images[chosen], "labels": labels[chosen], "learning_rate": rate}
            losses, *following = learning.run(None, {**given, **state})
            state = dict(zip(interface["state"], following, strict=True))
    assert losses.shape == (2,) and np.isfinite(losses).all()
    weights = {name: state[name] for name in interface["prediction_inputs"][1:]}
    scores, blocks = predicting.run(None, {"images": digits.test.images.numpy(), **weights})
    on_device = (scores.argmax(1) == digits.test.labels.numpy()).mean()
    ours = fo.fit(
        net, digits.train, epochs=epochs, batch_size=32, optimiser="adamw", learning_rate=3e-3, lr_schedule="linear"
    )
    assert blocks.shape == (2, len(digits.test), 10)
    assert on_device > 0.95
    assert on_device == pytest.approx(fo.evaluate(ours.network, digits.test).accuracy, abs=0.02)


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy, for exports are written into the run."""
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.mark.parametrize("body", [fo.bodies.MLP(hidden=(64, 64)), fo.bodies.CNN(width=0.25)], ids=["mlp", "cnn"])
def test_int8_weights_are_off_by_half_a_step_at_most_and_take_a_quarter_of_the_bytes(body, tmp_path):
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    net = fo.build(body, (1, 8, 8), rule=fo.rules.Projection(classes=10)).eval()
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    net.prepare.fit(images)
    (whole,) = export_network(net, tmp_path / "whole", format="onnx")
    (small,) = export_network(net, tmp_path / "small", format="onnx", precision="int8")
    kept = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(small).graph.initializer}
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items() if tensor.ndim > 1}
    for name, values in weights.items():
        if f"network.{name}.int8" in kept:
            scale = kept[f"network.{name}.scale"].reshape(-1, *(1,) * (values.ndim - 1))
            assert np.abs(kept[f"network.{name}.int8"] * scale - values).max() <= scale.max() * 0.501
    assert sum(f"network.{name}.int8" in kept for name in weights) >= 4
    saved = whole.stat().st_size - small.stat().st_size
    assert saved > 0.65 * sum(values.nbytes for values in weights.values())  # three of four bytes, less the scales
    given = onnxruntime.InferenceSession(str(small)).run(["scores"], {"images": images.numpy()})[0]
    expected = net(images).detach().numpy()
    np.testing.assert_allclose(given, expected, atol=0.05 * np.abs(expected).max())
    with pytest.raises(ValueError, match="precision 'int8' is for onnx"):
        export_network(net, tmp_path / "other", format="torch-export", precision="int8")
    with pytest.raises(ValueError, match="precision must be one of float32, int8, not 'int4'"):
        export_network(net, tmp_path / "other", format="onnx", precision="int4")


def test_the_command_writes_int8_weights_and_says_where_it_cannot(run, tmp_path, capsys):
    words = ["export", str(run), "--format", "onnx", "--precision", "int8", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert "test images get the same class from onnxruntime" in capsys.readouterr().err
    assert cli.main([*words, "--what", "training-step"]) == 2
    assert "--precision is for a network with --format onnx" in capsys.readouterr().err


def test_the_command_writes_onnx_and_checks_it_on_the_test_set(run, capsys, digits):
    capsys.readouterr()
    assert cli.main(["export", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["agree"] == result["images"] == len(digits.test)
    assert result["largest_difference"] < 1e-4
    ready = session(result["files"][0])
    assert [each.shape for each in (*ready.get_inputs(), *ready.get_outputs())] == [
        ["batch", 1, 8, 8],
        ["batch", 10],
        [2, "batch", 10],
    ]
    about = ready.get_modelmeta().custom_metadata_map
    assert about == result["about"] and json.loads(about["class_names"]) == list(digits.test.classes)
    assert {name: about[name] for name in ("channels", "height", "width", "colour", "classes")} == {
        "channels": "1", "height": "8", "width": "8", "colour": "L", "classes": "10"
    }  # fmt: skip
    assert about["input"].startswith("pixels, uint8 0 to 255 (batch, 1, 8, 8), L: a picture upright, laid on white")
    for count in (1, 7):
        assert ready.run(["scores"], {"images": digits.test.images[:count].numpy()})[0].shape == (count, 10)


def test_the_command_writes_safetensors_that_load(run, tmp_path, digits):
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out")]) == 0
    images = digits.test.images
    assert torch.equal(fo.load(tmp_path / "out").scores(images), fo.load(run).scores(images))


def test_torch_export_of_both(run, tmp_path, digits):
    net = fo.load(run)
    (path,) = export_network(net, tmp_path, format="torch-export")
    about = {"about.json": ""}
    scores, _ = torch.export.load(path, extra_files=about).module()(digits.test.images)
    assert json.loads(about["about.json"]) == input_about(net)
    torch.testing.assert_close(scores, net(digits.test.images))
    assert (
        cli.main(["export", str(run), "--format", "torch-export", "--what", "training-step", "--out", str(tmp_path)])
        == 0
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert {"training-step.pt2", "prediction.pt2", "state.safetensors", "interface.json"} <= names
    assert not any(path.suffix == ".tmp" or ".tmp" in path.name for path in tmp_path.iterdir())


def test_the_step_of_a_run_whose_bodies_learned_slowly(run, digits, monkeypatch):
    config = read(run / "config.json")
    rates = {"body_rate": 0.1, "layer_decay": 0.5}
    (run / "config.json").write_text(json.dumps({**config, "training": {**config["training"], **rates}}))
    steps = []
    monkeypatch.setattr(
        "forwardonly.cli.export.export_training_step", lambda _, step, *__, **___: steps.append(step) or []
    )
    words = ["--what", "training-step", "--no-check", "--optimiser", "sgd", "--momentum", "0", "--batch-size", "32"]
    assert cli.main(["export", str(run), *words]) == 0
    some = digits.train.subset(torch.arange(32))
    given = {"images": some.images, "labels": some.labels, "learning_rate": torch.tensor(0.01)}
    _, state = steps[0](steps[0].state, **given)
    net = fo.load(run)
    sgd = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.01}
    fo.training.Online(net, precision="fp32", **sgd, **rates).learn(some.images, some.labels)
    ours = net.state_dict()
    for name, before in steps[0].state.items():
        torch.testing.assert_close(state[name] - before, ours[name] - before, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "safetensors", "--what", "training-step"], "not graphs"),
        (["--what", "training-step", "--batch-size", "0"], "batch_size must be at least 1"),
        (["--format", "onxx"], "did you mean 'onnx'"),
        (["--optimiser", "sgd"], "--optimiser is for a training step: add --what training-step"),
        (["--format", "torch-export", "--weight-decay", "0.1"], "--weight-decay is for a training step"),
        (["--what", "training-step", "--learning-rate", "0.1"], "--learning-rate is for --format c"),
    ],
)
def test_mistakes(run, capsys, words, says):
    capsys.readouterr()
    assert cli.main(["export", str(run), *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["--what", "training-step", "--no-check"]])
def test_a_missing_converter_is_named_before_anything_is_written(run, capsys, monkeypatch, words):
    for name in ("exir", "backends.xnnpack.partition.xnnpack_partitioner"):
        monkeypatch.setitem(sys.modules, f"executorch.{name}", None)
    capsys.readouterr()
    assert cli.main(["export", str(run), "--format", "executorch", *words]) == 2
    err = capsys.readouterr().err
    assert "pip install 'forward-only[executorch]'" in err and err.count("\n") == 1
    assert not (run / "export").exists()


def test_only_a_network_for_executorch_has_a_batch_size(tmp_path):
    with pytest.raises(ValueError, match="batch_size is for executorch"):
        export_network(network("projection"), tmp_path, format="onnx", batch_size=2)


def test_what_cannot_be_a_plain_graph_is_refused():
    dropped = fo.mlp((1, 6, 6), [8, 8], rule=fo.rules.Projection(classes=4), dropout=0.5)
    with pytest.raises(ValueError, match="Dropout is random"):
        training_step(dropped, batch_size=4)
    with pytest.raises(ValueError, match="sgd, adam or adamw, not with rprop"):
        training_step(network("projection"), batch_size=4, optimiser="rprop")


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("rule", ["projection", "hyperspherical", "cumulative"])
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_a_network_of_features_takes_features(tmp_path, rule, format):
    generator = torch.Generator().manual_seed(0)
    values = 3 * torch.randn(64, 16, 1, 1, generator=generator) - 5
    features = fo.data.Features(values, torch.arange(64) % 4, tuple("abcd"), "features")
    net = fo.mlp(features.shape, [16, 16], rule=fo.rules.make(rule, classes=4))
    fo.fit(net, features, epochs=2)
    (path,) = export_network(net, tmp_path, format=format)
    if format == "onnx":
        ready = session(path)
        assert [each.type for each in ready.get_inputs()] == ["tensor(float)"]
        scores = torch.from_numpy(ready.run(["scores"], {"images": values.numpy()})[0])
    else:
        scores, _ = torch.export.load(path).module()(values)
    torch.testing.assert_close(scores, net(values), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="NaN"):
        net(torch.full_like(values, torch.nan))  # the check is back


def test_a_training_step_of_features_takes_features(tmp_path):
    features = fo.data.Features(torch.randn(64, 16, 1, 1), torch.arange(64) % 4, tuple("abcd"), "features")
    net = fo.mlp(features.shape, [16], rule=fo.rules.Projection(classes=4))
    net.prepare.fit(features.images)
    step = training_step(net, batch_size=8, optimiser="sgd")
    assert step.examples[0].dtype == torch.float32
    export_training_step(net, step, tmp_path, format="onnx")
    interface = read(tmp_path / "interface.json")
    types = {each["name"]: each["dtype"] for each in interface["inputs"]}
    assert types["images"] == "float32" and interface["about"]["input"].startswith("features, float32")
    for name in ("training-step", "prediction"):
        assert session(tmp_path / f"{name}.onnx").get_modelmeta().custom_metadata_map == interface["about"]
    assert session(tmp_path / "prediction.onnx").get_inputs()[0].shape[0] == "batch"
    assert session(tmp_path / "prediction.onnx").get_inputs()[0].type == "tensor(float)"


def test_a_missing_data_set_is_named_before_anything_is_written(run, tmp_path, capsys):
    moved = shutil.copytree(run, tmp_path / "moved")
    config = read(moved / "config.json")
    config["data"]["name"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert cli.main(["export", str(moved)]) == 2
    err = capsys.readouterr().err
    assert "gone" in err and "Leave the check out with --no-check" in err and err.count("\n") == 1
    assert not (moved / "export").exists()
    assert cli.main(["export", str(moved), "--no-check"]) == 0
    assert (moved / "export/model.onnx").exists()
