"""Class names: kept by networks, and compared wherever two sets of images, or a set and a network, meet."""

import json
from dataclasses import replace

import pytest
import torch

import forwardonly as fo


@pytest.fixture(scope="module")
def learned():
    """A network that has learned the digits, with their test images."""
    train, _, test = fo.data.load("digits")
    net = fo.mlp(train.shape, [60], rule=fo.rules.Projection(classes=10))
    fo.fit(net, train, epochs=4)
    return net, train, test


def turned(images):
    """The same images with the classes in reverse order."""
    last = len(images.classes) - 1
    return fo.data.Images(images.images, last - images.labels, images.classes[::-1], "turned")


def test_evaluation_goes_by_name(learned):
    net, _, test = learned
    whole, other = fo.evaluate(net, test), fo.evaluate(net, turned(test))
    assert whole.accuracy == other.accuracy > 0.8
    assert torch.equal(whole.confusion, other.confusion)
    three = fo.evaluate(net, test.of_classes([7, 8, 9]))
    expected = whole.confusion[7:].diagonal(7).sum() / whole.confusion[7:].sum()
    assert three.accuracy == pytest.approx(float(expected))
    assert three.accuracy > 0.7
    rows = three.confusion.sum(1)
    assert rows[:7].sum() == 0 and torch.equal(rows[7:], whole.confusion[7:].sum(1))


@pytest.mark.parametrize("names", [("a", "b"), ("0", "ten"), ("٠", "1")])
def test_a_class_that_the_network_has_not_learned_is_named(learned, names):
    net, _, test = learned
    two = test.of_classes([0, 1])
    strange = next(name for name in names if name not in test.classes)
    with pytest.raises(ValueError, match=f"strange has the class {strange!r}, which the network does not have"):
        fo.evaluate(net, fo.data.Images(two.images, two.labels, names, "strange"))


def test_a_name_without_an_image_does_not_matter_and_one_given_twice_does(learned):
    net, _, test = learned
    more = replace(test, classes=(*test.classes, "none of these"))
    assert fo.evaluate(net, more).accuracy == fo.evaluate(net, test).accuracy
    twice = fo.data.Images(test.images, test.labels, (*test.classes[:9], "0"), "twice")
    with pytest.raises(ValueError, match="two classes named '0'"):
        fo.evaluate(net, twice)


def test_other_measurements_go_by_name_too(images):
    net = fo.mlp(images.shape, [12, 9], rule=fo.rules.ForwardForward(classes=4), readout="validation")
    fo.fit(net, images, validation=images, epochs=2, batch_size=16)
    assert fo.measure.diagnose(net, images, seed=1).blocks[0].accuracy == pytest.approx(
        fo.measure.diagnose(net, turned(images), seed=1).blocks[0].accuracy
    )
    before = net.readout.weights.clone()
    fo.measure.fit_readout(net, turned(images))
    torch.testing.assert_close(net.readout.weights, before)
    assert fo.measure.leaks(net, turned(images)) == []
    with pytest.raises(ValueError, match="has the class 'e'"):
        fo.measure.diagnose(net, replace(images, classes=("e", "b", "c", "d")))


def test_training_matches_what_it_measures_by_name(learned):
    _, train, test = learned

    def run(**held):
        net = fo.mlp(train.shape, [30], rule=fo.rules.Projection(classes=10))
        return fo.fit(net, train, epochs=2, **held)

    plain, other = run(validation=test, test=test), run(validation=turned(test), test=turned(test))
    assert plain.result["test_accuracy"] == other.result["test_accuracy"] > 0.6
    assert plain.result["validation_accuracy"] == other.result["validation_accuracy"]
    strange = fo.data.Images(test.images, test.labels, tuple("abcdefghij"), "letters")
    for part in ("validation", "test"):
        with pytest.raises(ValueError, match="letters has the class 'a', which the set of training images does not"):
            run(**{part: strange})


def test_a_second_training_goes_by_the_names_of_the_first(learned):
    _, train, test = learned
    net = fo.mlp(train.shape, [60], rule=fo.rules.Projection(classes=10))
    fo.fit(net, train, epochs=4)
    fo.fit(net, turned(train), epochs=1, learning_rate=1e-9)
    assert net.class_names == train.classes
    assert fo.evaluate(net, test).accuracy > 0.8
    other = fo.data.Images(train.images, train.labels, tuple("abcdefghij"), "letters")
    fo.fit(net, other, epochs=1)
    assert net.class_names == other.classes  # it has learned them now


def test_names_are_saved_and_loaded(learned, tmp_path, images):
    net, train, test = learned
    assert net.class_names == train.classes
    fo.save(net, tmp_path / "net")
    assert json.loads((tmp_path / "net/config.json").read_text())["class_names"] == list("0123456789")
    loaded = fo.load(tmp_path / "net")
    assert loaded.class_names == train.classes
    assert fo.evaluate(loaded, turned(test)).accuracy == fo.evaluate(net, test).accuracy
    fresh = fo.mlp(images.shape, [12], rule=fo.rules.Projection(classes=4))
    fo.save(fresh, tmp_path / "fresh")
    assert fo.load(tmp_path / "fresh").class_names is None
    fo.fit(fresh, images, epochs=1, out=tmp_path / "run")
    assert fo.load(tmp_path / "run").class_names == images.classes


@pytest.mark.parametrize("names", [3, ["a", 1, "c", "d"], ["a", "b", "c", "d", "e"]])
def test_damaged_names_are_refused(images, tmp_path, names):
    fo.save(fo.mlp(images.shape, [12], rule=fo.rules.Projection(classes=4)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "class_names": names}))
    with pytest.raises(ValueError, match="does not name the network's 4 classes"):
        fo.load(tmp_path)
