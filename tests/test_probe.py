"""Probes: against scikit-learn, by hand, and as a user meets them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import forwardonly as fo
from forwardonly import cli
from forwardonly.measure.probe import features
from forwardonly.measure.readers import KINDS, logistic, neighbours, ridge
from forwardonly.network.storage import from_config


@pytest.fixture
def points():
    """150 points in three classes, 20 features, of which one never changes; and 40 others."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 190)
    x = generator.normal(size=(190, 20)) * 3 + 2 + generator.normal(size=(3, 20))[labels] * 2
    x[:, 7] = 1.5
    return torch.tensor(x[:150], dtype=torch.float32), torch.tensor(labels[:150]), torch.tensor(x[150:]).float()


def scaled(x, other):
    scaler = StandardScaler().fit(x.numpy().astype(np.float64))
    return scaler.transform(x.numpy()), scaler.transform(other.numpy())


@pytest.mark.parametrize("count", [150, 12])  # more examples than features, and fewer
@pytest.mark.parametrize("strength", [1e-3, 0.1])
def test_ridge_is_scikit_learns(points, count, strength):
    x, y, other = points[0][:count], points[1][:count], points[2]
    known, unknown = scaled(x, other)
    expected = Ridge(alpha=strength * count).fit(known, np.eye(3)[y.numpy()]).predict(unknown)
    (read,) = ridge(x, y, 3, [strength])
    np.testing.assert_allclose(read(other), expected, atol=2e-4)


@pytest.mark.parametrize("strength", [1e-2, 1e-3])
def test_logistic_is_scikit_learns(points, strength):
    x, y, other = points
    known, unknown = scaled(x, other)
    reference = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000).fit(known, y.numpy())
    read = logistic(x, y, 3, [0.1, strength])[1]
    np.testing.assert_allclose(torch.softmax(read(other), 1), reference.predict_proba(unknown), atol=5e-3)


@pytest.mark.parametrize("count", [1, 5, 50])
def test_neighbours_are_scikit_learns(points, count):
    x, y, other = points
    reference = KNeighborsClassifier(count, metric="cosine", weights=lambda far: np.exp(-far / 0.07))
    expected = reference.fit(x.double().numpy(), y.numpy()).predict_proba(other.double().numpy())
    (read,) = neighbours(x, y, 3, [count])
    scores = read(other)
    np.testing.assert_allclose(scores / scores.sum(1, keepdim=True), expected, atol=1e-4)


def test_more_neighbours_than_there_are_is_all_of_them(points):
    x, y, other = points
    few, all_of_them = neighbours(x[:10], y[:10], 3, [10, 50])
    assert torch.equal(few(other), all_of_them(other))


def network(images, rule="self-contrastive", hidden=(12, 9, 8), **options):
    return fo.mlp(images.shape, hidden, rule=fo.rules.make(rule, classes=4, **options))


@pytest.mark.parametrize(("blocks", "sizes"), [("all-but-first", (9, 8)), ("all", (12, 9, 8)), ("last", (8,))])
def test_features_are_the_normalised_activations_of_these_blocks(images, blocks, sizes):
    net = network(images)
    x = net.rule.alone(net.prepare(images.images[:5])).flatten(1)
    seen = []
    for block in net.row:
        h = block.body[1:](x)
        x = h / (h.square().mean(1, keepdim=True) + 1e-6).sqrt()
        seen.append(x)
    read = features(net, images.images[:5], blocks=blocks, grid=2, batch_size=2, precision="fp32")
    assert read.shape == (5, sum(sizes)) and not read.requires_grad
    torch.testing.assert_close(read, torch.cat(seen[-len(sizes) :], dim=1), rtol=1e-4, atol=1e-5)


def test_maps_are_averaged_over_a_grid():
    net = fo.build(fo.bodies.Conv(depth=2, channels=6), (1, 8, 8), rule=fo.rules.Projection(classes=4))
    pictures = torch.rand(3, 1, 8, 8)
    for grid, cells in ((1, 1), (2, 4)):
        read = features(net, pictures, blocks="last", grid=grid, batch_size=10, precision="fp32")
        assert read.shape == (3, 6 * cells)


def test_a_network_of_one_block_is_read_at_that_block(images):
    assert fo.probe(network(images, "simclr", hidden=(12, 9)), images).features == 9
    assert fo.probe(network(images, "projection", hidden=(12,)), images).features == 12


@pytest.mark.parametrize("rule", fo.rules.TABLE)
def test_a_probe_reads_every_rule_and_leaves_the_network_alone(images, rule):
    net = network(images, rule)
    net.prepare.fit(images.images)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    read = fo.probe(net, images, images)
    assert read.scores(images.images[:7]).shape == (7, 4)
    predicted = read.predict(images.images)
    assert read.accuracy == pytest.approx(float((predicted == images.labels).float().mean()))
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_tokens_are_averaged(images):
    body = fo.bodies.Transformer(depth=1, channels=16, patch=3)
    net = fo.build(body, images.shape, rule=fo.rules.Projection(classes=4))
    assert fo.probe(net, images, blocks="last", grid=1).features == 16


def test_the_strength_is_the_best_on_images_held_out(digits):
    net = fo.mlp(digits.train.shape, [30, 30], rule=fo.rules.SelfContrastive())
    read = fo.probe(net, digits.train)
    kept, held = fo.data.hold_out(digits.train, round(0.1 * len(digits.train)), 0)
    how = {"blocks": "all-but-first", "grid": 2, "batch_size": 1000, "precision": "auto"}
    x, other = (features(net, part.images, **how) for part in (kept, held))
    strengths = KINDS["ridge"].strengths
    reached = [
        float((one(other).argmax(1) == held.labels).float().mean()) for one in ridge(x, kept.labels, 10, strengths)
    ]
    assert read.validation_accuracy == max(reached)
    assert read.strength == strengths[reached.index(max(reached))]
    assert (read.accuracy, read.images, read.classes) == (None, len(digits.train), digits.train.classes)


def test_a_share_of_the_labels_has_its_share_of_every_class(digits):
    net = fo.mlp(digits.train.shape, [30, 30], rule=fo.rules.SelfContrastive())
    read = fo.probe(net, digits.train, digits.validation, labels_share=0.1)
    assert read.images == round(0.1 * len(digits.train))
    assert read.accuracy < fo.probe(net, digits.train, digits.validation).accuracy
    one_each = fo.probe(net, digits.train, labels_share=10 / len(digits.train))
    assert one_each.images == 10 and one_each.validation_accuracy is None
    assert fo.probe(net, digits.train, digits.validation, labels_share=0.1).accuracy == read.accuracy
    assert fo.probe(net, digits.train, labels_share=0.1, seed=1).scores(digits.test.images[:3]).tolist() != (
        read.scores(digits.test.images[:3]).tolist()
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "svm"}, "method must be one of ridge, logistic, knn, not 'svm'"),
        ({"blocks": "first"}, "blocks must be one of all-but-first, all, last, not 'first'"),
        ({"labels_share": 0.0}, "labels_share is a share from above 0 to 1, not 0.0"),
        ({"labels_share": "0.1"}, "labels_share is a share from above 0 to 1, not 0.1"),
        ({"labels_share": None}, "labels_share is a share from above 0 to 1, not None"),
        ({"labels_share": 0.01}, "labels_share 0.01 of 80 images leaves 1, fewer than one for each of 4 classes"),
        ({"grid": 0}, "grid must be at least 1, not 0"),
        ({"precision": "fp8"}, "Unknown precision 'fp8'"),
    ],
)
def test_options_out_of_range_are_one_sentence(images, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fo.probe(network(images), images, **options)


def test_images_that_do_not_fit_are_one_sentence(images):
    with pytest.raises(ValueError, match=r"takes images of \(1, 5, 5\), not \(1, 6, 6\)"):
        fo.probe(fo.mlp((1, 5, 5), [9], rule=fo.rules.SelfContrastive()), images)
    with pytest.raises(ValueError, match=r"fo.data.Images or fo.data.Features, not Tensor"):
        fo.probe(network(images), images.images)
    with pytest.raises(ValueError, match="two classes or more"):
        fo.probe(network(images), images.subset(torch.arange(0, 80, 4)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", KINDS)
def test_a_diverged_network_is_one_sentence(images, value, method):
    net = network(images)
    with torch.no_grad():
        next(net.row[1].parameters()).fill_(value)
    with pytest.raises(ValueError, match="activations hold NaN or infinity: training has diverged"):
        fo.probe(net, images, method=method)


def test_a_probe_takes_tensors_arrays_and_images(images):
    read = fo.probe(network(images), images)
    expected = read.predict(images.images)
    assert torch.equal(read.predict(images), expected)
    assert torch.equal(read.predict(images.images.numpy()), expected)
    with pytest.raises(ValueError, match=r"images must be a tensor, an array or fo.data.Images, not list"):
        read.predict([images.images[0]])


# As a command


def test_the_command_says_what_python_says_and_adds_a_line(trained_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    words = ["probe", str(run), "--method", "knn", "--labels-share", "0.5", "--untrained", "--json"]
    assert cli.main(words) == 0
    result = json.loads(capsys.readouterr().out)
    splits = fo.data.load("digits")
    read = fo.probe(fo.load(run), splits.train, splits.test, method="knn", labels_share=0.5)
    assert (result["accuracy"], result["strength"]) == (read.accuracy, read.strength)
    random = from_config(fo.load(run).config)  # the same body and rule, from the same seed of the initial weights
    random.prepare.fit(splits.train.images)
    untrained = fo.probe(random, splits.train, splits.test, method="knn", labels_share=0.5)
    assert result["untrained_accuracy"] == untrained.accuracy
    assert cli.main(["probe", str(run)]) == 0
    shown = capsys.readouterr().err
    assert "probe on 359 test images of digits" in shown and "1,438 labelled images" in shown
    lines = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["knn", "ridge"]
    assert lines[0] == {name: result[name] for name in lines[0]}


def test_a_resized_folder_is_probed_as_the_run_read_it_by_any_path(tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        for number in range(20):
            path = tmp_path / "pets" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (9, 12), dtype=np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    words = ["--data", "pets", "--image-size", "6", "--hidden", "8", "8", "--epochs", "1", "--out", "r"]
    assert cli.main(["train", *words]) == 0
    for more in ([], ["--data", "pets"], ["--data", str(tmp_path / "pets")]):
        assert cli.main(["probe", "r", *more]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--method", "svm"], "--method cannot be 'svm': choose one of knn, logistic, ridge"),
        (["--labels-share", "2"], "labels_share is a share from above 0 to 1, not 2.0"),
        (["--precision", "fp8"], "--precision cannot be 'fp8'"),
    ],
)
def test_mistakes_are_one_line(trained_run, words, sentence, capsys):
    assert cli.main(["probe", str(trained_run), *words]) == 2
    assert sentence in capsys.readouterr().err
