"""A network that was trained on pixels refuses floats of another range; one trained on features takes any."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import json

import numpy as np
import pytest
import torch

import forwardonly as fo


def trained(digits, rule, **options):
    net = fo.mlp(digits.train.shape, [20], rule=rule)
    return fo.fit(net, digits.train, epochs=1, seed=0, **options).network


@pytest.mark.parametrize(
    "rule", [fo.rules.Hyperspherical(classes=10), fo.rules.ForwardForward(classes=10)], ids=["one-pass", "contrastive"]
)
def test_floats_of_another_range_are_refused(digits, rule, tmp_path):
    """Also where the rule does not standardise, after saving and loading, and after training goes on."""
    net = trained(digits, rule, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["network"]["input"] == "pixels"
    fo.save(net, tmp_path / "saved")
    x = digits.test.images[:50]
    unit = x.float() / 255
    for network in (net, fo.load(tmp_path / "run"), fo.load(tmp_path / "saved")):
        right = network.predict(x)
        assert torch.equal(network.predict(unit), right)
        unit_and_a_hair = unit.double()
        unit_and_a_hair[0, 0, 0, 0] = np.nextafter(1, 2)
        network.predict(unit_and_a_hair)
        for wrong, said in (
            (x.float(), "0 to 255"),
            (x.float() / 127.5 - 1, "-1 to 1"),
            (unit - unit.mean(), "-0"),
        ):
            for ask in (network.predict, network.scores, network.probabilities, network.goodness):
                with pytest.raises(
                    ValueError, match=rf"trained on pixels .* floats from .*{said}.*, they must be 0 to 1"
                ):
                    ask(wrong)
        with pytest.raises(ValueError, match="NaN or infinite"):
            network.predict(unit * torch.inf)
        assert network.prepare(unit[:0]).shape == (0, 1, 8, 8)


def test_features_are_of_any_range(digits, tmp_path):
    x = (digits.train.images.float() / 255 - 0.5) * 7
    features = fo.data.Features(x, digits.train.labels, digits.train.classes, "features")
    net = fo.mlp(features.shape, [20], rule=fo.rules.Hyperspherical(classes=10))
    net.predict(x[:9])  # not trained yet, so nothing is known
    assert "input" not in net.config
    net = fo.fit(net, features, epochs=1, seed=0).network
    fo.save(net, tmp_path / "net")
    assert torch.equal(fo.load(tmp_path / "net").predict(x[:9]), net.predict(x[:9]))


def test_a_config_with_another_input_is_refused(trained_run, tmp_path):
    import shutil

    folder = shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["network"]["input"] = ["pixels"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has the input .*pixels.*, it must be pixels, features or tokens"):
        fo.load(folder)
    del config["network"]["input"]  # as runs of before have none
    (folder / "config.json").write_text(json.dumps(config))
    assert fo.load(folder).predict(torch.full((1, 1, 8, 8), 9.0)).shape == (1,)
