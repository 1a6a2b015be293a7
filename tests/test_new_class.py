"""A new class from a few examples: the prototype against numpy written from its equations, and the network it joins."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import export_c
from forwardonly.rules import BlockPosition, Hyperspherical
from forwardonly.rules.new_prototype import new_prototype


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference_prototype(features, old):
    """The definition, with exact projections where the library sweeps."""
    features, old = unit(features), unit(old)
    common = unit(unit(np.maximum(old, min(features.min(), 0))).mean(0))
    off_old = np.eye(old.shape[1]) - np.linalg.pinv(old) @ old

    def made(of, share):
        own = off_old @ of.mean(0)
        return unit(own - share * (own @ common) * common)

    def seen(share):
        leads = []
        for left_out in range(len(features)):
            rest = np.delete(features, left_out, axis=0)
            leads.append(features[left_out] @ made(rest, share) - (old @ features[left_out]).max())
        return np.mean(leads) > 1.2 * np.std(leads)

    share = 0.3
    while share < 4 and seen(share + 0.1):
        share += 0.1
    return made(features, share)


def near(direction, spread, count, generator, lowest=0.0):
    return np.maximum(direction + spread * generator.standard_normal((count, len(direction))), lowest)


@pytest.mark.parametrize("lowest", [0.0, -9.0], ids=["behind-relu", "signed"])
@pytest.mark.parametrize("spread", [0.1, 0.4, 2.0])
def test_the_prototype_is_that_of_the_definition(spread, lowest):
    generator = np.random.default_rng(0)
    old = np.linalg.qr(generator.standard_normal((40, 5)))[0].T + 0.02 * generator.standard_normal((5, 40))
    features = near(np.abs(generator.standard_normal(40)), spread, 10, generator, lowest)
    found = new_prototype(*(torch.tensor(each, dtype=torch.float64) for each in (features, old))).numpy()
    np.testing.assert_allclose(found, reference_prototype(features, old), atol=1e-5)


def test_the_prototype_does_not_depend_on_order_or_lengths():
    torch.manual_seed(0)
    features, old = torch.rand(10, 30), torch.randn(4, 30)
    found = new_prototype(features, old)
    torch.testing.assert_close(found.norm(), torch.tensor(1.0))
    torch.testing.assert_close(new_prototype(features.flip(0), old), found)
    torch.testing.assert_close(new_prototype(3 * features, 0.2 * old), found)


def test_the_more_sure_the_examples_the_less_the_new_class_takes():
    """Examples that agree leave room for steps, which lower the score of what classes share."""
    generator = np.random.default_rng(1)
    old = np.linalg.qr(generator.standard_normal((40, 5)))[0].T
    middle, common = np.abs(generator.standard_normal(40)), unit(unit(np.maximum(old, 0)).mean(0))
    shares = []
    for spread in (0.05, 1.5):
        features = torch.tensor(near(middle, spread, 10, generator))
        shares.append(float(new_prototype(features, torch.tensor(old)) @ torch.tensor(common)))
    assert shares[0] < shares[1] - 0.1


@pytest.mark.parametrize(("per_class", "count"), [(1, 1), (3, 10), (3, 2)])
def test_a_rule_grows_by_one_class(per_class, count):
    torch.manual_seed(0)
    rule = Hyperspherical(classes=4, prototypes_per_class=per_class).for_block((20,), BlockPosition(0, 1))
    old = rule.prototypes.detach().clone()
    rule.add_class(rule.new_prototypes(torch.rand(count, 20)).detach())
    assert rule.classes == 5 and rule.prototypes.shape == (5, per_class, 20)
    assert torch.equal(rule.prototypes[:4], old) and rule.prototypes.requires_grad
    torch.testing.assert_close(rule.prototypes[4].norm(dim=1), old.norm(dim=2).mean().expand(per_class))
    assert rule.scores(torch.rand(3, 20)).shape == (3, 5)


@pytest.fixture(scope="module")
def digits():
    train, _, test = fo.data.load("digits")
    return train, test


def nets(train):
    rule = Hyperspherical(classes=9, aux_channels=8)
    yield fo.mlp(train.shape, [40, 30], rule=rule, readout="validation")
    yield fo.build(fo.bodies.CNN(width=0.1), train.shape, rule=rule)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 9))
    yield fo.localize(model, rule, train.images[:4], blocks=["2"])


@pytest.mark.parametrize("which", range(3), ids=["mlp", "cnn", "localized"])
def test_a_network_grows_whole_and_old_classes_keep_their_scores(which, digits, tmp_path):
    train, test = digits
    net = list(nets(train))[which]
    old = train.of_classes(list(range(9)))
    fo.fit(net, old, epochs=1, validation=old)
    scores, weights = net.eval().scores(test.images), {name: own.clone() for name, own in net.state_dict().items()}
    assert fo.add_class(net, train.images[train.labels == 9][:10], "nine") == 9
    assert net.class_names == (*old.classes, "nine") and net.classes == net.rule.classes == 10
    torch.testing.assert_close(net.scores(test.images)[:, :, :9], scores)
    for name, own in net.state_dict().items():
        before = weights[name]
        assert torch.equal(own[:9] if name.endswith("prototypes") else own, before), name
    named = replace(test, classes=net.class_names)
    assert fo.evaluate(net, named).confusion.shape == (10, 10)
    assert net.probabilities(test.images[:5]).shape == (5, 10)
    if which < 2:
        fo.save(net, tmp_path)
        other = fo.load(tmp_path)
        assert other.class_names == net.class_names
        torch.testing.assert_close(other.scores(test.images), net.scores(test.images))
        fo.add_class(other, test.images[:10], "another")  # and so on
        assert other.classes == 11 and net.classes == 10
    fo.fit(net, replace(train, classes=net.class_names), validation=named, epochs=1)  # of ten classes now


def test_a_grown_network_is_exported(digits, tmp_path):
    train, test = digits
    net = fo.mlp(train.shape, [40, 30], rule=Hyperspherical(classes=9))
    fo.fit(net, train.of_classes(list(range(9))), epochs=1)
    fo.add_class(net, train.images[train.labels == 9][:10], "9")
    export_c(net, tmp_path, optimiser="sgd")
    assert "#define FO_CLASSES 10\n" in (tmp_path / "training_step.h").read_text()
    online = fo.training.Online(net)
    assert online.learn(test.images[:8], test.labels[:8]).shape == (2,)


def test_names_that_a_network_has_not_been_given_are_its_indices(images):
    net = fo.mlp(images.shape, [12], rule=Hyperspherical(classes=4))
    net.prepare.fit(images.images)
    fo.add_class(net, images.images[:10].numpy(), "new")
    assert net.class_names == ("0", "1", "2", "3", "new")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_digit_is_learned_from_ten_examples(digits, seed):
    train, test = digits
    old = train.of_classes(list(range(9)))
    net = fo.mlp(train.shape, [300, 300], rule=Hyperspherical(classes=9), seed=seed)
    fo.fit(net, old, epochs=20, seed=seed)
    before = fo.evaluate(net, test.of_classes(list(range(9)))).accuracy
    fo.add_class(net, train.images[train.labels == 9][:10], "9")
    confusion = fo.evaluate(net, test).confusion
    right = confusion.diagonal() / confusion.sum(1)
    assert before > 0.97
    assert right[:9].mean() > before - 0.04 and right[9] > 0.6


def refused(net, images, name, words):
    state = {key: own.clone() for key, own in net.state_dict().items()}
    with pytest.raises(ValueError, match=words) as problem:
        fo.add_class(net, images, name)
    assert "\n" not in str(problem.value)
    assert all(torch.equal(own, state[key]) for key, own in net.state_dict().items())


def test_what_cannot_be_added_is_refused_in_one_sentence(images):
    net = fo.mlp(images.shape, [12, 9], rule=Hyperspherical(classes=4))
    net.class_names = tuple("abcd")
    ten = images.images[:10]
    refused(net, ten, "b", "has a class 'b' already")
    refused(net, ten, "", "name must be")
    refused(net, ten, 7, "name must be")
    refused(net, ten[:0], "e", "no images")
    refused(net, ten[:, :, :3], "e", "takes examples of")
    refused(net, "ten.png", "e", "must be numbers")
    refused(net, torch.full((3, *images.shape), torch.nan), "e", "NaN or infinite")
    assert net.classes == 4 and net.class_names == tuple("abcd")
    net.row[1].body[1].weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="block 1 are not finite"):
        fo.add_class(net, ten, "e")
    assert net.classes == net.rule.classes == 4
    other = fo.mlp(images.shape, [12], rule=fo.rules.Projection(classes=4))
    refused(other, ten, "e", "projection cannot add a class: only hyperspherical can")
