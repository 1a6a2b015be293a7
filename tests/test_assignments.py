"""Assignments and their display by `diagnose`."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.cli import main
from forwardonly.experiments import figures


def test_channels_are_sorted_by_class_and_sureness():
    network = fo.mlp((1, 4, 4), [12, 9], rule=fo.rules.ChannelLearnable(classes=3))
    generator = torch.Generator().manual_seed(0)
    for block in network.row:
        block.rule.votes.data = 20 * torch.randn(block.rule.votes.shape, generator=generator)
    for found, block in zip(fo.measure.assignments(network), network.row, strict=True):
        own = block.rule.assignment().detach()
        torch.testing.assert_close(found.weights, own[found.channels])
        chosen, sure = found.weights.argmax(1).tolist(), found.weights.max(1).values.tolist()
        assert list(zip(chosen, [-s for s in sure], strict=True)) == sorted(
            zip(chosen, [-s for s in sure], strict=True)
        )
        assert found.channels_per_class == np.bincount(chosen, minlength=3).tolist()
        weights = own.double().numpy()
        np.testing.assert_allclose(found.entropy, -(weights * np.log(weights)).sum(1).mean(), rtol=1e-4)
        json.dumps(found.as_json())


def test_fixed_groups_have_no_entropy_and_other_rules_no_assignment():
    static = fo.mlp((1, 4, 4), [7], rule=fo.rules.ChannelStatic(classes=3))
    (found,) = fo.measure.assignments(static)
    assert found.entropy == 0.0
    assert sorted(found.channels_per_class) == [2, 2, 3]
    assert fo.measure.assignments(fo.mlp((1, 4, 4), [7], rule=fo.rules.Projection(classes=3))) == []


def test_diagnose_draws_every_blocks_assignment(tmp_path, capsys):
    run = tmp_path / "run"
    options = "--data digits --rule channel-learnable --hidden 20 20 --epochs 2 --batch-size 100 --seed 0"
    assert main(["train", *options.split(), "--out", str(run), "--json"]) == 0
    capsys.readouterr()
    assert main(["diagnose", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["assignments"]
    assert [len(one["weights"]) for one in found] == [20, 20]
    page = (run / "diagnosis.html").read_text()
    assert page.count("class by channels, sorted by class") == 2  # the pictures' descriptions
    assert "entropy of the assignment in training" in page


def test_a_heat_map_draws_the_shares_it_was_given():
    drawn = ElementTree.fromstring(figures.heat([[1.0, 0.0], [1.0, 0.0], [0.25, 0.75]], "channels", "class"))
    cells = [cell.attrib for cell in drawn if cell.get("class") == "cell"]
    assert [float(cell["fill-opacity"]) for cell in cells] == [1.0, 0.25, 0.75]
    widths = [float(cell["width"]) for cell in cells]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)  # equal neighbours are one cell
