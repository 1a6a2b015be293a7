"""A network that was trained on pixels refuses floats of another range; one trained on features takes any."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import json
import shutil

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
    folder = shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["network"]["input"] = ["pixels"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has the input .*pixels.*, it must be pixels, features or tokens"):
        fo.load(folder)
    del config["network"]["input"]  # as runs of before have none
    (folder / "config.json").write_text(json.dumps(config))
    assert fo.load(folder).predict(torch.full((1, 1, 8, 8), 9.0)).shape == (1,)


def test_bytes_are_refused_where_floats_of_another_range_were_learned(digits, tmp_path):
    """Also after saving and loading; floats from 0 to 1 are what bytes stand for."""
    for scale, refused in ((255.0, False), (1.0, True)):
        features = fo.data.Features(digits.train.images / scale, digits.train.labels, digits.train.classes, "floats")
        net = fo.mlp(features.shape, [20], rule=fo.rules.Hyperspherical(classes=10))
        fo.fit(net, features, epochs=1, seed=0, out=tmp_path / f"{scale}")
        for network in (net, fo.load(tmp_path / f"{scale}")):
            right = network.predict(digits.test.images / scale)
            if refused:
                with pytest.raises(ValueError, match="trained on floats from 0 to 255, and bytes stand for 0 to 1"):
                    network.predict(digits.test.images)
            else:
                assert torch.equal(network.predict(digits.test.images), right)


def test_a_range_in_a_config_that_is_none_is_refused(trained_run, tmp_path):
    folder = shutil.copytree(trained_run, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["network"]["range"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has the range 'wide', it must be two numbers"):
        fo.load(folder)


def test_a_picture_of_whole_numbers_means_the_same_in_any_company(digits):
    """As bytes do: 0 to 255, however bright the other pictures of a batch are."""
    dark, bright = digits.train.images[:40] // 8, digits.train.images[40:80]
    net = fo.mlp(digits.train.shape, [20], rule=fo.rules.ForwardForward(classes=10, normalise_input=False))
    fo.fit(net, digits.train, epochs=1, seed=0)
    together = torch.cat([dark, bright])
    alone = [fo.evaluate(net, (part.long(), digits.train.labels[: len(part)])) for part in (dark, together)]
    assert alone[0].accuracy == fo.evaluate(net, (dark, digits.train.labels[:40])).accuracy
    by_index = [(image.long(), int(label)) for image, label in zip(together, digits.train.labels, strict=False)]
    assert fo.evaluate(net, by_index, batch_size=40).accuracy == alone[1].accuracy
