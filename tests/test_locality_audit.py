"""The locality audit finds nothing in our networks, and finds a leak where there is one."""

import json

import pytest
import torch

import forwardonly as fo
from forwardonly import cli


def network(images, rule_name, depth=3):
    net = fo.mlp(images.shape, [12] * depth, rule=fo.rules.TABLE[rule_name](classes=len(images.classes)))
    net.prepare.fit(images.images)
    return net


@pytest.mark.parametrize("rule_name", fo.rules.TABLE)
def test_every_rule_is_local(images, rule_name):
    net = network(images, rule_name)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert fo.measure.leaks(net, images) == []
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_hole_in_the_wall_is_found(images, monkeypatch):
    net = network(images, "projection")
    monkeypatch.setattr(fo.Block, "pass_on", lambda self, activation, incoming: self.rule.pass_on(activation))
    found = {(leak.perturbed, leak.moved) for leak in fo.measure.leaks(net, images)}
    assert found == {(1, 0), (2, 0), (2, 1)}


def test_a_leak_names_its_blocks_and_its_parameter(images):
    net = network(images, "projection")
    net.row[2].rule.classifier.weight = net.row[0].rule.classifier.weight  # one weight in two blocks
    found = fo.measure.leaks(net, images)
    assert fo.measure.Leak(perturbed=2, moved=0, parameter="rule.classifier.weight") in found
    assert {leak.perturbed for leak in found} == {2}


def test_no_images_is_one_clear_sentence(images):
    with pytest.raises(ValueError, match="no images to audit"):
        fo.measure.leaks(network(images, "projection"), images.subset(torch.arange(0)))


def test_the_command_prints_the_leaks(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "--epochs", "1", "--hidden", "20", "20", "--out", str(run)]) == 0
    capsys.readouterr()
    assert cli.main(["diagnose", str(run), "--locality", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaks"] == []
    assert cli.main(["diagnose", str(run), "--locality"]) == 0
    assert "no block's loss moves a block before it" in capsys.readouterr().err
