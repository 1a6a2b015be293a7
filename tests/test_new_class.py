"""A new class from a few examples: the prototype against numpy written from its equations, and the network it joins."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.export import export_c
from forwardonly.rules import BlockPosition, Hyperspherical
from forwardonly.rules.hyperspherical import class_goodness
from forwardonly.rules.new_prototype import fitted_prototype, fitting, new_prototype


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


def some_statistics(classes=5, size=12, seed=0):
    """Old prototypes, the covariance within classes and the class means of unit features."""
    generator = np.random.default_rng(seed)
    means = np.abs(generator.standard_normal((classes, size)))
    features = unit(np.maximum(means[:, None] + 0.5 * generator.standard_normal((classes, 200, size)), 0))
    means = features.mean(1)
    off = (features - means[:, None]).reshape(-1, size)
    old = means - means.mean(0) + 0.05 * generator.standard_normal(means.shape)
    return generator, old, off.T @ off / len(off), means


def reference_fitted(features, old, within, means):
    """The definition, in another order than the library's: all scores are functions of an image."""
    features, old, size, classes = unit(features), unit(old), len(within), len(means)
    between = np.cov(means.T, bias=True)
    wide = within + 0.05 * between
    wide += 0.3 * np.trace(wide) / size * np.eye(size)
    moment = within + sum(np.outer(own, own) for own in means) / classes
    ones = np.linalg.solve(moment + 0.03 * np.trace(moment) / size * np.eye(size), means.mean(0))
    weights = [np.linalg.solve(wide, own) for own in means]
    biases = [-own @ weight / 2 for own, weight in zip(means, weights, strict=True)]
    # least squares of centred cosines by centred scores, over images whose second moment is `moment`
    root = np.linalg.cholesky(moment)
    seen, wanted = ((of - np.mean(of, 0)) @ root for of in (np.array(weights), old))
    a = np.linalg.lstsq(seen.reshape(-1, 1), wanted.ravel(), rcond=None)[0][0]
    mean = features.mean(0)
    weight = np.linalg.solve(wide, mean)
    bias = -(mean @ weight - np.trace(np.linalg.solve(wide, within)) / len(features)) / 2
    made = old.mean(0) + a * (weight - np.mean(weights, 0) + (bias - np.mean(biases)) * ones)
    off = old - made
    behind = [off[c] @ means[c] - 3 * (off[c] @ within @ off[c]) ** 0.5 for c in range(classes)]
    return made + max(0, min(behind)) * ones


@pytest.mark.parametrize(("spread", "count"), [(0.1, 10), (0.1, 1), (0.6, 200)])
def test_with_statistics_the_prototype_is_that_of_the_definition(spread, count):
    generator, old, within, means = some_statistics()
    features = near(np.abs(generator.standard_normal(12)), spread, count, generator)
    found = fitted_prototype(*map(torch.tensor, (features, old)), fitting(*map(torch.tensor, (old, within, means))))
    np.testing.assert_allclose(found.numpy(), reference_fitted(features, old, within, means), rtol=1e-9, atol=1e-9)


def test_a_new_class_is_about_three_deviations_behind_or_not_raised():
    """Once far from all old classes, and once on top of one."""
    generator, old, within, means = some_statistics()
    fit = fitting(*map(torch.tensor, (old, within, means)))
    raised = []
    for middle in (np.eye(12)[0] + 0.01, means[2]):
        features = torch.tensor(near(middle, 0.02, 10, generator))
        off = fitted_prototype(features, torch.tensor(old), fit).numpy() - unit(old)
        leads = [own @ mean + 3 * (own @ within @ own) ** 0.5 for own, mean in zip(off, means, strict=True)]
        raised.append(max(leads))
    assert raised[0] == pytest.approx(0, abs=0.02) and raised[1] > 0.1  # what raises a score is not quite constant


def test_added_classes_are_scored_by_products():
    torch.manual_seed(0)
    features, prototypes = torch.randn(6, 8), torch.randn(5, 1, 8)
    products = torch.nn.functional.normalize(features, dim=1) @ prototypes[:, 0].T
    cosines = products / prototypes[:, 0].norm(dim=1)
    expected = torch.cat([cosines[:, :3], products[:, 3:]], 1)
    torch.testing.assert_close(class_goodness(features, prototypes, 16.0, 2), expected)


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


@pytest.mark.parametrize("statistics", [False, True], ids=["without", "statistics"])
@pytest.mark.parametrize("which", range(3), ids=["mlp", "cnn", "localized"])
def test_a_network_grows_whole_and_old_classes_keep_their_scores(which, statistics, digits, tmp_path):
    train, test = digits
    net = list(nets(train))[which]
    old = train.of_classes(list(range(9)))
    fo.fit(net, old, epochs=1, validation=old)
    if statistics:
        fo.summarise(net, old)
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


def test_statistics_are_those_of_the_features(digits):
    train, _ = digits
    old = train.of_classes(list(range(9)))
    net = fo.mlp(train.shape, [40, 30], rule=Hyperspherical(classes=9))
    fo.fit(net, old, epochs=1)
    weights = {name: own.clone() for name, own in net.state_dict().items()}
    fo.summarise(net, old)
    seen = net.each(net.prepare(old.images), lambda block, activation, _: block.rule.features(activation))
    for rule, features in zip([block.rule for block in net.row], seen, strict=True):
        features, labels = unit(features.double().numpy()), old.labels.numpy()
        means = np.stack([features[labels == c].mean(0) for c in range(9)])
        np.testing.assert_allclose(rule.means.numpy(), means, atol=1e-6)
        off = features - means[labels]
        np.testing.assert_allclose(rule.within.numpy(), off.T @ off / len(off), atol=1e-6)
    assert rule.summarised == 9 and rule.added == 0
    assert all(torch.equal(net.state_dict()[name], own) for name, own in weights.items())


def test_the_order_in_which_classes_are_added_does_not_matter(digits):
    train, test = digits
    first = fo.mlp(train.shape, [40, 30], rule=Hyperspherical(classes=8))
    fo.fit(first, train.of_classes(list(range(8))), epochs=2)
    fo.summarise(first, train.of_classes(list(range(8))))
    found = []
    for order in ((8, 9), (9, 8)):
        net = copy.deepcopy(first)
        for label in order:
            fo.add_class(net, train.images[train.labels == label][:10], str(label))
        assert net.rule.added == 2
        found.append(net.eval().scores(test.images)[:, :, [net.class_names.index(str(c)) for c in range(10)]])
    torch.testing.assert_close(found[0], found[1])
    fo.summarise(net, train.of_classes(list(range(8))))  # again: of those that were trained
    assert net.rule.summarised == 8 and net.rule.added == 2


def test_names_that_a_network_has_not_been_given_are_its_indices(images):
    net = fo.mlp(images.shape, [12], rule=Hyperspherical(classes=4))
    net.prepare.fit(images.images)
    fo.add_class(net, images.images[:10].numpy(), "new")
    assert net.class_names == ("0", "1", "2", "3", "new")


@pytest.mark.slow
@pytest.mark.parametrize("statistics", [False, True], ids=["without", "statistics"])
@pytest.mark.parametrize("seed", range(2))
def test_a_digit_is_learned_from_ten_examples(digits, seed, statistics):
    train, test = digits
    old = train.of_classes(list(range(9)))
    net = fo.mlp(train.shape, [300, 300], rule=Hyperspherical(classes=9), seed=seed)
    fo.fit(net, old, epochs=20, seed=seed)
    before = fo.evaluate(net, test.of_classes(list(range(9)))).accuracy
    if statistics:
        fo.summarise(net, old)
    fo.add_class(net, train.images[train.labels == 9][:10], "9")
    confusion = fo.evaluate(net, test).confusion
    right = confusion.diagonal() / confusion.sum(1)
    assert before > 0.97
    assert right[:9].mean() > before - (0.02 if statistics else 0.04) and right[9] > 0.6


@pytest.mark.slow
def test_half_of_the_digits_are_added_to_the_other_half(digits):
    """Prototypes that are made one by one are compared with each other all the same."""
    train, test = digits
    net = fo.mlp(train.shape, [300, 300], rule=Hyperspherical(classes=5))
    fo.fit(net, train.of_classes(list(range(5))), epochs=20)
    fo.summarise(net, train.of_classes(list(range(5))))
    for label in range(5, 10):
        fo.add_class(net, train.images[train.labels == label][:10], str(label))
    confusion = fo.evaluate(net, test).confusion
    right = confusion.diagonal() / confusion.sum(1)
    assert right[:5].mean() > 0.85 and right[5:].mean() > 0.6


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
    empty = fo.mlp(images.shape, [12], rule=Hyperspherical(classes=4, summarised=4))
    refused(empty, ten, "e", "none yet: call fo.summarise")


def test_what_has_no_statistics_is_refused_in_one_sentence(images):
    for rule, data, words in (
        (fo.rules.Projection(classes=4), images, "projection cannot add a class"),
        (Hyperspherical(classes=4, prototypes_per_class=2), images, "one prototype a class"),
        (Hyperspherical(classes=5), images, "no images of class 4"),
        (Hyperspherical(classes=3), images, "A label is 3, but the network has 3 classes"),
        (Hyperspherical(classes=4), fo.data.Images(images.images), "no labels"),
        (Hyperspherical(classes=4), images.images, "targets|labels"),
    ):
        with pytest.raises(ValueError, match=words):
            fo.summarise(fo.mlp(images.shape, [12], rule=rule), data)
    with pytest.raises(ValueError, match="summarised is a number of classes"):
        Hyperspherical(classes=4, summarised=5)
