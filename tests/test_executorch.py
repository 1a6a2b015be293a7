"""ExecuTorch: in its runtime, exported networks predict the same and exported training steps learn the same."""

import json
import shutil

import pytest
import safetensors.torch
import torch

import forwardonly as fo
from forwardonly import cli
from forwardonly.export import executorch_program, export_network, export_training_step, input_about, training_step
from forwardonly.network.block import Block
from forwardonly.rules import BlockPosition
from forwardonly.training.batch import Batch
from forwardonly.training.config import TrainingConfig
from forwardonly.training.step import Context
from forwardonly.training.strategies import whole_step
from forwardonly.training.update import Update

pytest.importorskip("executorch.exir", reason="needs forward-only[executorch]")

BODIES = {
    "mlp": (fo.bodies.MLP(hidden=(16, 16)), (1, 6, 6)),
    "cnn": (fo.bodies.CNN(width=0.1), (3, 8, 8)),
    "separable": (fo.bodies.Separable(), (3, 8, 8)),
}


def images_of(shape, count=48):
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return fo.data.Images(pixels, torch.arange(count) % 4, tuple("abcd"), "random")


def network(rule, body="mlp", **options):
    body, shape = BODIES[body]
    net = fo.build(body, shape, rule=fo.rules.make(rule, classes=4, **options))
    net.prepare.fit(images_of(shape).images)
    return net


def run_program(path, *tensors, method="forward"):
    program = executorch_program(path.read_bytes())
    return program.load_method(method).execute(list(tensors))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "body", "options"),
    [
        ("hyperspherical", "mlp", {"optimiser": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01, "clip": 1.0}),
        ("projection", "mlp", {"optimiser": "sgd", "learning_rate": 0.1, "momentum": 0.9}),
        ("auxiliary", "mlp", {"optimiser": "sgd", "learning_rate": 0.02, "momentum": 0.0}),
        ("ff", "mlp", {"optimiser": "sgd", "learning_rate": 0.02}),
        ("channel-static", "cnn", {"optimiser": "sgd", "learning_rate": 0.02}),
    ],
)
def test_twenty_steps_are_those_of_the_library(rule, body, options, tmp_path):
    net = network(rule, body, **({"negatives": "uniform"} if rule == "ff" else {})).train()
    images = images_of(net.shape)
    step = training_step(net, batch_size=16, **options)
    paths = export_training_step(net, step, tmp_path, format="executorch")
    assert [path.name for path in paths] == [
        "training-step.pte",
        "prediction.pte",
        "state.safetensors",
        "interface.json",
    ]
    interface = json.loads((tmp_path / "interface.json").read_text())
    state = safetensors.torch.load_file(tmp_path / "state.safetensors")
    program = executorch_program((tmp_path / "training-step.pte").read_bytes())
    learn = program.load_method("forward")
    updates = [Update(block, TrainingConfig.resolve(net.rule, given=options)) for block in net.row]
    generator = torch.Generator().manual_seed(0)
    for k in range(20):
        some = images.subset(torch.randperm(48, generator=generator)[:16])
        wrong = (some.labels + 1 + k % 3) % 4
        given = {"images": some.images, "labels": some.labels, "wrong_labels": wrong, **state}
        given["learning_rate"] = torch.tensor(options["learning_rate"])
        losses, *following = learn.execute([given[each["name"]] for each in interface["inputs"]])
        state = dict(zip(interface["state"], following, strict=True))
        batch = Batch(net.present(some.images, some.labels, wrong=wrong), some.labels)
        expected = whole_step(net, updates, batch, Context("fp32"))
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    ours = net.state_dict()
    for name in (name for name in state if name in ours):
        torch.testing.assert_close(state[name], ours[name], rtol=1e-3, atol=1e-4)
    net.eval()
    weights = [state[name] for name in interface["prediction_inputs"][1:]]
    for count in (1, 16):
        scores, blocks = run_program(tmp_path / "prediction.pte", images.images[:count], *weights)
        torch.testing.assert_close(scores, net(images.images[:count]).detach(), rtol=1e-3, atol=1e-3)
        assert blocks.shape == (len(net.row), count, 4)


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("projection", "mlp"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("ff", "mlp"), ("hyperspherical", "cnn"), ("projection", "separable"))
        ),
    ],
)
def test_a_network_predicts_the_same(rule, body, tmp_path):
    net = network(rule, body)
    (path,) = export_network(net, tmp_path, format="executorch", batch_size=3)
    images = images_of(net.shape).images[:3]
    scores, blocks = run_program(path, images)
    with net.evaluating():
        torch.testing.assert_close(scores, net(images).detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(blocks, net.scores(images).detach(), rtol=1e-4, atol=1e-4)
    assert {name: run_program(path, method=name) for name in input_about(net)} == {
        name: [text] for name, text in input_about(net).items()
    }
    assert net.training and net.prepare.channels_last == (body != "mlp")  # as it was
    assert {each.name for each in tmp_path.iterdir()} == {"model.pte"}


def test_a_network_of_features_takes_features(tmp_path):
    features = fo.data.Features(torch.randn(64, 16, 1, 1), torch.arange(64) % 4, tuple("abcd"), "features")
    net = fo.mlp(features.shape, [16], rule=fo.rules.Projection(classes=4))
    net.prepare.fit(features.images)
    (path,) = export_network(net, tmp_path, format="executorch")
    scores, _ = run_program(path, features.images[:1])
    torch.testing.assert_close(scores, net(features.images[:1]).detach(), rtol=1e-4, atol=1e-4)


class Spectrum(torch.nn.Module):
    def forward(self, signal):
        return torch.fft.rfft(signal.flatten(1)).abs()


def test_what_the_converter_refuses_is_refused_before_anything_is_written(tmp_path):
    body = torch.nn.Sequential(Spectrum(), torch.nn.Linear(19, 8))
    block = Block(body, fo.rules.Projection(classes=4).for_block((8,), BlockPosition(0, 1)))
    net = fo.Network([block], shape=(1, 6, 6))
    with pytest.raises(ValueError, match="ExecuTorch cannot hold this network: ") as refused:
        export_network(net, tmp_path / "out", format="executorch")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_network_and_checks_it(trained_run, tmp_path, capsys):
    run = shutil.copytree(trained_run, tmp_path / "run")
    capsys.readouterr()
    assert cli.main(["export", str(run), "--format", "executorch", "--batch-size", "7", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["files"] == [str(run / "export/model.pte")]
    assert result["agree"] == result["images"] == 200
    assert result["largest_difference"] < 1e-4


@pytest.mark.slow
def test_the_command_writes_a_training_step_that_learns(trained_run, tmp_path, digits, capsys):
    words = ["--format", "executorch", "--what", "training-step", "--batch-size", "32", "--optimiser", "sgd"]
    assert cli.main(["export", str(trained_run), *words, "--out", str(tmp_path)]) == 0
    assert "200 of 200 test images get the same class from ExecuTorch" in capsys.readouterr().err
    interface = json.loads((tmp_path / "interface.json").read_text())
    state = safetensors.torch.load_file(tmp_path / "state.safetensors")
    program = executorch_program((tmp_path / "training-step.pte").read_bytes())
    learn, seen = program.load_method("forward"), []
    for start in range(0, 32 * 20, 32):
        images, labels = digits.train.images[start : start + 32], digits.train.labels[start : start + 32]
        given = {"images": images, "labels": labels, "learning_rate": torch.tensor(0.005), **state}
        losses, *following = learn.execute([given[each["name"]] for each in interface["inputs"]])
        state = dict(zip(interface["state"], following, strict=True))
        seen.append(losses)
    assert torch.stack(seen[-5:]).mean() < torch.stack(seen[:5]).mean()
