"""The Hub's mixin, against a local folder."""

import re
import shlex
from dataclasses import asdict

import pytest
import torch

import forwardonly as fo
from forwardonly.cli import train
from forwardonly.cli.parsing import parse
from forwardonly.hub import HubNetwork, card


@pytest.fixture
def run(trained_run):
    return trained_run


def test_what_is_saved_comes_back_and_predicts_the_same(run, tmp_path, digits):
    HubNetwork.of_run(run).save_pretrained(tmp_path / "hub")
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    again = HubNetwork.from_pretrained(tmp_path / "hub").network
    images = digits.test.images
    assert torch.equal(again.scores(images), fo.load(run).scores(images))


def test_pushing_uploads_the_same_folder(run, tmp_path, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, **given):
            pass

        def create_repo(self, repo_id, **given):
            return type("Repository", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **given):
            seen[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
            return "https://example.invalid/commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    HubNetwork.of_run(run).push_to_hub("someone/digits")
    assert set(seen["someone/digits"]) == {"README.md", "config.json", "model.safetensors"}
    assert seen["someone/digits"]["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_the_card_tells_what_was_measured_and_the_command(run, tmp_path):
    HubNetwork.of_run(run).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    measured = fo.evaluate(fo.load(run), fo.data.load("digits").test).accuracy
    shown = float(re.search(r"test accuracy \| ([\d.]+) %", text)[1])
    assert shown == pytest.approx(100 * measured, abs=0.3)  # the run measured in its own precision
    assert "forwardonly train --body mlp --rule hyperspherical --data digits --rule.margin 0.2" in text
    assert "--rule.margin 0.2 --hidden 40 20" in text
    assert text.startswith("---\nlibrary_name: forwardonly")


def test_a_card_without_a_run_claims_nothing(tmp_path):
    network = fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3))
    HubNetwork(network).save_pretrained(tmp_path)
    assert "accuracy" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (fo.rules.make("ff", classes=3, normalise_input=False), "--rule.no-normalise-input"),
        (fo.rules.make("channel-learnable", classes=3, as_published=True), "--rule.as-published"),
    ],
)
def test_the_command_on_a_card_is_one(tmp_path, rule, words):
    network = fo.build(fo.bodies.CNN(width=0.1), (1, 8, 8), rule=rule)
    line = next(line for line in card(network, {}).splitlines() if line.startswith("    forwardonly train "))
    assert words in line
    argv = shlex.split(line)[2:]
    chosen = parse(train.options(argv), argv, prog="forwardonly train", description="")
    assert fo.rules.make(chosen.rule, classes=3, **asdict(chosen.rule_options)).options() == rule.options()


@pytest.mark.parametrize(
    "body",
    [fo.bodies.MLP(hidden=(48, 48)), fo.bodies.CNN(width=0.1), fo.bodies.Separable(channels=(4, 8), pools=1)],
    ids=lambda body: type(body).__name__,
)
def test_the_command_on_a_card_makes_the_body(body):
    network = fo.build(body, (1, 8, 8), rule=fo.rules.Projection(classes=3))
    line = next(line for line in card(network, {}).splitlines() if line.startswith("    forwardonly train "))
    argv = shlex.split(line)[2:]
    chosen = parse(train.options(argv), argv, prog="forwardonly train", description="")
    assert fo.bodies.TABLE[chosen.body](**asdict(chosen.network)) == body


@pytest.mark.parametrize("readout", ["sum", "skip-first", "last", "validation", "training", "range"])
def test_the_command_on_a_card_names_the_readout_and_what_it_is_fitted_to(readout):
    network = fo.build(fo.bodies.MLP(), (1, 8, 8), rule=fo.rules.Projection(classes=3), readout=readout)
    data = {"name": "digits", "validation": 100}
    lines = card(network, {"data": data}).splitlines()
    line = next(line for line in lines if line.startswith("    forwardonly train "))
    argv = shlex.split(line)[2:]
    chosen = parse(train.options(argv), argv, prog="forwardonly train", description="")
    assert (chosen.readout, chosen.validation, chosen.data) == (readout, 100, "digits")
    fitted = readout in ("validation", "range")
    assert ("forwardonly train" in card(network, {"data": {"name": "digits"}})) != fitted, "nothing to fit it to"


class OwnRule(fo.rules.Projection):
    """A rule that the command line does not know."""


NUMBERS = {"classes": 3, "targets": "number"}
NO_COMMAND = {
    "one number": lambda: fo.mlp((4,), [16], rule=fo.rules.Projection(classes=1, targets="number")),
    "numbers of pictures": lambda: fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(**NUMBERS)),
    "labels": lambda: fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3, targets="labels")),
    "rows": lambda: fo.mlp((4,), [8], rule=fo.rules.Projection(classes=3)),
    "standardise": lambda: fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3), standardise=False),
    "own rule": lambda: fo.mlp((1, 6, 6), [8], rule=OwnRule(classes=3)),
    "model": lambda: fo.localize(
        torch.nn.Sequential(*(torch.nn.Linear(6, 6) for _ in range(3))),
        fo.rules.Projection(**NUMBERS),
        torch.rand(2, 6),
        source={"name": "timm:resnet18", "options": {}},
    ),
}


@pytest.mark.parametrize("case", NO_COMMAND)
def test_a_card_has_no_command_that_cannot_be_given(tmp_path, case):
    network = NO_COMMAND[case]()
    HubNetwork(network).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "The command that trains" not in text and "    forwardonly" not in text
    assert ("- image-classification" in text) == (case in ("standardise", "own rule"))


def test_a_network_of_features_has_no_command():
    network = fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3))
    features = fo.data.Features(torch.randn(30, 1, 6, 6), torch.arange(30) % 3, ("a", "b", "c"), "features")
    fo.fit(network, features, epochs=1)
    assert "The command that trains" not in card(network, {})


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "fo.load(snapshot_download("),
        ({"name": "timm:resnet18", "options": {}}, "    forwardonly tune --model timm:resnet18 --rule projection"),
    ],
)
def test_the_card_of_a_model_in_place(tmp_path, source, says):
    layers = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU()) for _ in range(3)]
    model = torch.nn.Sequential(*layers)
    network = fo.localize(model, fo.rules.Projection(classes=3), torch.rand(2, 6), source=source)
    HubNetwork(network).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert says in text and ("forwardonly tune" in text) == (source is not None)
    if source is None:
        assert torch.equal(fo.load(tmp_path, model=model).scores(torch.ones(2, 6)), network.scores(torch.ones(2, 6)))


def test_a_card_says_what_is_learned():
    pictures = fo.mlp((1, 6, 6), [8], rule=fo.rules.Projection(classes=3))
    numbers = fo.mlp((4,), [8], rule=fo.rules.Projection(classes=2, targets="number"))
    texts = fo.localize(
        torch.nn.Sequential(torch.nn.Embedding(9, 6), *(torch.nn.Linear(6, 6) for _ in range(4))),
        fo.rules.Projection(classes=9, targets="token"),
        torch.randint(0, 9, (2, 5)),
    )
    for network, task, output in (
        (pictures, "pipeline_tag: image-classification", "| output | 3 classes |"),
        (pictures, "- image-classification", "| output | 3 classes |"),
        (numbers, None, "| output | 2 numbers |"),
        (texts, "pipeline_tag: text-generation", "| output | 9 words |"),
    ):
        text = card(network, {})
        assert output in text and (task in text if task else "pipeline_tag" not in text)
        assert ("- image-classification" in text) == (network is pictures)
