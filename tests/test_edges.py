"""Edges of the Python interface: one image, no images, wrong types; each works or is refused in one sentence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import forwardonly as fo
from forwardonly.export import training_step
from forwardonly.training import Online, compatibility
from forwardonly.training.compatibility import require_batch


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return fo.data.Images(pixels, torch.arange(40) % 4, tuple("abcd"), "noise")


def auxiliary(shape, body=None):
    return fo.build(body or fo.bodies.MLP(hidden=(8, 8)), shape, rule=fo.rules.Auxiliary(classes=4))


@pytest.mark.parametrize(
    ("body", "rule", "block"),
    [
        (fo.bodies.VGG8b(width=0.05), "projection", 6),  # 16 x 16 pixels are one behind its fourth halving
        (fo.bodies.Six(width=0.05), "projection", 5),
        (fo.bodies.MLP(hidden=(8, 8)), "auxiliary", 1),
        (fo.bodies.CNN(width=0.05), "auxiliary", 1),
        (fo.bodies.VGG8b(width=0.05), "backprop", 1),
    ],
)
def test_a_batch_of_one_under_batch_norm(pictures, body, rule, block):
    network = fo.build(body, pictures.shape, rule=fo.rules.make(rule, classes=4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=f"Batch norm in block {block} needs 2 images a batch: choose batch_size of 2"):
        fo.fit(network, pictures, epochs=1, batch_size=1)
    with pytest.raises(ValueError, match=f"Batch norm in block {block} needs 2 images"):
        Online(network).learn(pictures.images[:1], pictures.labels[:1])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training


def test_a_batch_of_one_where_it_can_be_learned(pictures):
    for body, rule in ((fo.bodies.CNN(width=0.1), "projection"), (fo.bodies.VGG8b(width=0.05), "cumulative")):
        network = fo.build(body, pictures.shape, rule=fo.rules.make(rule, classes=4))
        fo.fit(network, pictures, epochs=1, batch_size=1)
        Online(network).learn(pictures.images[:1], pictures.labels[:1])


def test_processes_that_would_get_one_image_each(pictures):
    network = fo.build(fo.bodies.VGG8b(width=0.05), pictures.shape, rule=fo.rules.Projection(classes=4))
    with pytest.raises(ValueError, match="2 images a batch in each of 2 processes: choose batch_size of 4 or more"):
        require_batch(network, 3, 2)
    require_batch(network, 4, 2)


def test_one_training_image(pictures):
    with pytest.raises(ValueError, match="Batch norm in block 1 needs 2 images a batch"):
        fo.fit(auxiliary(pictures.shape), pictures.subset(torch.tensor([0])), epochs=1)


def test_the_training_step_of_one_image(pictures):
    network = fo.build(fo.bodies.CNN(width=0.05), pictures.shape, rule=fo.rules.Auxiliary(classes=4))
    with pytest.raises(ValueError, match="Batch norm in block 1 needs 2 images"):
        training_step(network, batch_size=1)
    with pytest.raises(ValueError, match=r"batch_size must be a whole number, not 2\.5"):
        training_step(network, batch_size=2.5)


@pytest.mark.parametrize("rows", [9, 17, 33])
def test_an_odd_row_joins_the_chunk_before(rows):
    pytest.importorskip("sklearn")
    from forwardonly.estimator import ForwardOnlyClassifier

    X, y = np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32), np.arange(rows) % 2
    classifier = ForwardOnlyClassifier(rule="auxiliary", hidden=8, batch_size=8, random_state=0)
    classifier.partial_fit(X, y, classes=[0, 1])
    assert classifier._online.steps == rows // 8
    with pytest.raises(ValueError, match="Batch norm in block 1 needs 2 images"):
        classifier.partial_fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="choose batch_size of 2 or more"):
        ForwardOnlyClassifier(rule="auxiliary", hidden=8, batch_size=1).fit(X, y)
    plain = ForwardOnlyClassifier(rule="projection", hidden=8, batch_size=8, random_state=0)
    assert plain.partial_fit(X, y, classes=[0, 1])._online.steps == rows // 8 + 1


@pytest.mark.parametrize("rule", ["ff", "cumulative", "cff-fixed", "projection", "hyperspherical", "backprop"])
def test_no_images_have_no_predictions(pictures, rule):
    network = fo.mlp(pictures.shape, [8, 8], rule=fo.rules.make(rule, classes=4))
    assert network.predict(pictures.images[:0]).shape == (0,)
    assert network.scores(pictures.images[:0]).shape[1:] == (0, 4)
    assert network.probabilities(pictures.images[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (slice(0, 0), torch.zeros(0, dtype=torch.int64), "There are no images to learn from"),
        (slice(0, 4), torch.tensor([0, 1, 2, -100]), "Labels must be from 0 to 3"),
        (slice(0, 4), torch.tensor([0, 1, 2, 4]), "Labels must be from 0 to 3"),
        (slice(0, 4), torch.tensor([0, 1, 2]), "labels must be 4 whole numbers"),
        (slice(0, 4), torch.zeros(4, 4), "labels must be 4 whole numbers"),
        (slice(0, 4), torch.zeros(4), "labels must be 4 whole numbers"),
        (slice(0, 4), [0, 1, 2, 3], "images and labels must be tensors, not Tensor and list"),
    ],
)
@pytest.mark.parametrize("rule", ["ff", "cumulative", "projection", "hyperspherical", "backprop"])
def test_online_refuses_bad_labels(pictures, rule, images, labels, words):
    online = Online(fo.mlp(pictures.shape, [8, 8], rule=fo.rules.make(rule, classes=4)))
    with pytest.raises(ValueError, match=words):
        online.learn(pictures.images[images], labels)
    assert online.steps == 0


def test_whether_a_network_learns_from_one_image_is_tried_once(pictures, monkeypatch):
    tried, known = [], compatibility.block_that_needs_two
    monkeypatch.setattr(compatibility, "block_that_needs_two", lambda network: tried.append(1) or known(network))
    online = Online(fo.mlp(pictures.shape, [8, 8], rule=fo.rules.Projection(classes=4)))
    for k in range(3):
        online.learn(pictures.images[k : k + 1], pictures.labels[k : k + 1])
    assert (len(tried), online.steps) == (1, 3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_online_takes_labels_of_any_whole_type(pictures, dtype):
    losses = []
    for kind in (torch.int64, dtype):
        online = Online(fo.mlp(pictures.shape, [8], rule=fo.rules.Projection(classes=4)))
        losses.append(online.learn(pictures.images, pictures.labels.to(kind)))
    assert torch.equal(*losses)


def test_fit_says_what_it_takes(pictures):
    network = fo.mlp(pictures.shape, [8], rule=fo.rules.Projection(classes=4))
    loader = DataLoader(TensorDataset(pictures.images, pictures.labels), batch_size=8)
    for data in (loader, (pictures.images, pictures.labels)):
        fo.fit(network, data, test=data, epochs=1)
    for data in (pictures.images, "pictures", 7, None):
        with pytest.raises(ValueError, match=r"train must be .*, not "):
            fo.fit(network, data, epochs=1)
        if data is not None:
            with pytest.raises(ValueError, match="test must be "):
                fo.fit(network, pictures, test=data, epochs=1)


def test_training_without_gradients(pictures):
    network = fo.mlp(pictures.shape, [8], rule=fo.rules.ForwardForward(classes=4))
    twin = fo.mlp(pictures.shape, [8], rule=fo.rules.ForwardForward(classes=4))
    with torch.inference_mode():
        strange = fo.mlp(pictures.shape, [8], rule=fo.rules.Projection(classes=4))
        with pytest.raises(ValueError, match=r"outside torch\.inference_mode"):
            fo.fit(network, pictures, epochs=1)
        with pytest.raises(ValueError, match=r"outside torch\.inference_mode"):
            Online(network).learn(pictures.images, pictures.labels)
    with pytest.raises(ValueError, match=r"outside torch\.inference_mode"):
        fo.fit(strange, pictures, epochs=1)
    with torch.no_grad():
        fo.fit(network, pictures, epochs=1)
    fo.fit(twin, pictures, epochs=1)
    for one, two in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_arrays_are_predicted(pictures):
    network = fo.mlp(pictures.shape, [8], rule=fo.rules.Projection(classes=4))
    for images in (pictures.images, pictures.images.float() / 255):
        assert torch.equal(network.predict(images.numpy()), network.predict(images))
    assert torch.equal(network.goodness(pictures.images.numpy()), network.goodness(pictures.images))
    assert torch.equal(network.predict(pictures), network.predict(pictures.images))
    for images in ([[0]], "pictures", None, np.array(["a"])):
        with pytest.raises(ValueError, match=r"must be a tensor or an array|the data to predict"):
            network.predict(images)
    with pytest.raises(ValueError, match="Images must be uint8 or float"):
        network.predict(pictures.images.long().numpy())


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 8, 8), (3, 4, 4)])
def test_a_users_model_for_other_images(shape):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    size = " x ".join(map(str, shape))
    if shape[0] == 3:
        model.append(nn.Conv2d(8, 8, 3))
    with pytest.raises(ValueError, match=f"The model does not take the example 2 x {size}: ") as said:
        fo.localize(model, fo.rules.Projection(classes=4), torch.rand(2, *shape))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_users_model_in_another_precision(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()).to(dtype)
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"must be float32, but '1\.weight' is {kind}: call model\.float\(\) before"):
        fo.localize(model, fo.rules.Projection(classes=4), torch.rand(2, 1, 4, 4))
    fo.localize(model.float(), fo.rules.Projection(classes=4), torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize(("body", "least"), [("six", 9), ("cnn", 8), ("vgg8b", 16), ("tinycnn", 4)])
def test_the_smallest_image_of_a_body(body, least):
    make = fo.bodies.TABLE[body](width=0.05)
    fo.build(make, (1, least, least), rule=fo.rules.Projection(classes=4))
    with pytest.raises(ValueError, match=f"images must be at least {least} pixels a side, not {least - 1}"):
        fo.build(make, (1, least, least - 1), rule=fo.rules.Projection(classes=4))
