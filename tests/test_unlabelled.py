"""Learning without labels: what the rules draw, what does not matter to them, and what such a network refuses."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import forwardonly as fo
from forwardonly import cli
from forwardonly.estimator import ForwardOnlyClassifier
from forwardonly.export import export_network, training_step
from forwardonly.training import Online, Team
from forwardonly.training.config import TrainingConfig
from forwardonly.training.feed import Feed
from forwardonly.training.progress import Position
from forwardonly.training.schedule import Schedule

UNLABELLED = [name for name, entry in fo.rules.TABLE.items() if not fo.rules.rule_class(entry).labelled]
NO_SCORES = "This network learns without labels, so it has no class scores"
FIRST = Position(0, 0, 0, 0, False)


def network(images, rule="self-contrastive", **options):
    return fo.mlp(images.shape, [12, 9], rule=fo.rules.make(rule, **options), seed=3)


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("rule", UNLABELLED)
def test_labels_do_not_matter_and_may_be_missing(images, rule):
    turned = fo.data.Images(images.images, images.labels.flip(0), images.classes, "turned")
    nets = [network(images, rule) for _ in range(3)]
    for net, data in zip(nets, (images, turned, fo.data.Images(images.images)), strict=True):
        run = fo.fit(net, data, epochs=2, batch_size=16, crop=1, seed=5)
        assert run.result["test_accuracy"] is run.result["block_accuracy"] is None
        assert net.class_names is None
    assert same(nets[0], nets[1]) and same(nets[0], nets[2])
    assert not same(nets[0], network(images, rule))


def feed(net, images, team=None, **options):
    config = TrainingConfig.resolve(net.rule, images, {"batch_size": 16, **options})
    return Feed(net, images, config, Schedule(config, 5, len(net.row)), "fp32", 16, 0, team or Team())


def test_replicas_share_the_pairs_of_the_whole_batch(images):
    net, order = network(images, "ff-unsupervised"), torch.arange(16)
    whole = feed(net, images)(order, FIRST).signal.chunk(2)
    for replica in range(2):
        team = Team()
        team.replicas, team.replica = 2, replica
        part = feed(net, images, team)(order, FIRST)
        rows = slice(8 * replica, 8 * replica + 8)
        assert torch.equal(part.signal, torch.cat([stream[rows] for stream in whole]))
        assert torch.equal(part.labels, images.labels[:16][rows])


def test_views_are_drawn_apart_where_a_rule_asks_for_two(images):
    order = torch.arange(16)
    one, two = (network(images, positives=positives) for positives in ("same", "views"))
    image = one.alone(one.prepare(images.images[:16]))
    assert torch.equal(feed(one, images)(order, FIRST).signal[:16], image)
    assert torch.equal(feed(two, images)(order, FIRST).signal[:16], image)  # nothing makes the views differ
    moved = [feed(net, images, crop=2)(order, FIRST).signal[:16] for net in (one, two)]
    lengths = [stream.square().mean((1, 2, 3)) for stream in moved]
    torch.testing.assert_close(lengths[0], torch.ones(16), rtol=1e-3, atol=1e-3)
    assert bool((lengths[1] < 0.999).any())


def test_a_step_on_a_stream_of_images_needs_no_labels(images):
    nets = [network(images) for _ in range(2)]
    for net, labels in zip(nets, (None, images.labels), strict=True):
        learner = Online(net, seed=1, precision="fp32")
        losses = [learner.learn(images.images, labels) for _ in range(2)]
        assert bool(torch.isfinite(losses[1]).all()) and len(losses[1]) == 2
    assert same(*nets)


def test_micro_batches_have_the_pairs_of_the_whole_batch(images):
    nets = [network(images) for _ in range(2)]
    fo.fit(nets[0], images, epochs=1, batch_size=16, precision="fp32")
    fo.fit(nets[1], images, epochs=1, batch_size=16, precision="fp32", memory_budget="8GiB")
    assert same(*nets)


@pytest.mark.parametrize("rule", UNLABELLED)
def test_what_needs_class_scores_says_so_in_one_sentence(images, tmp_path, rule):
    net = network(images, rule)
    fo.fit(net, images, epochs=1, batch_size=16)
    asks = [
        lambda: net.scores(images.images),
        lambda: net.predict(images.images),
        lambda: net.probabilities(images.images),
        lambda: net.goodness(images.images),
        lambda: fo.evaluate(net, images),
        lambda: fo.measure.diagnose(net, images),
        lambda: export_network(net, tmp_path / "out", format="torch-export"),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match=f"^{NO_SCORES}: .*probe"):
            ask()
    with pytest.raises(ValueError, match="an exported training step cannot"):
        training_step(net, batch_size=8)


def test_a_run_without_labels_has_no_accuracy_to_report(images):
    for options in ({"validation": images}, {"test": images}):
        with pytest.raises(ValueError, match="no accuracy on validation or test images"):
            fo.fit(network(images), images, epochs=1, **options)
    fitted = fo.mlp(images.shape, [12], rule=fo.rules.SelfContrastive(), readout="training")
    with pytest.raises(ValueError, match="no fitted readout"):
        fo.fit(fitted, images, epochs=1)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 1, "memory_budget": "8GiB"}])
def test_an_image_alone_has_no_other_to_be_compared_with(images, options):
    with pytest.raises(ValueError, match="batch_size of 2 or more"):
        fo.fit(network(images), images, epochs=1, **options)
    with pytest.raises(ValueError, match="batch_size of 2 or more"):
        Online(network(images)).learn(images.images[:1])


def test_blocks_with_labels_learn_on_what_was_learned_without(images):
    net = network(images)
    fo.fit(net, images, epochs=1, batch_size=16)
    front = fo.Front(net.eval(), 1)
    x = net.rule.alone(net.prepare(images.images))
    expected = net.row[0].pass_on(net.row[0](x), x)
    assert torch.equal(front(images.images), expected)
    head = fo.mlp((12, 1, 1), [8], rule=fo.rules.Projection(classes=4))
    fo.fit(head, fo.extract(front, images, precision="fp32"), epochs=1, batch_size=16)


def test_rules_of_several_families_do_not_mix(images):
    blocks = [network(images).row[0], fo.mlp((1, 3, 4), [9], rule=fo.rules.ForwardForward(classes=4)).row[0]]
    with pytest.raises(ValueError, match="cannot mix"):
        fo.Network(blocks, shape=images.shape)


def test_a_rule_with_labels_refuses_images_without(images):
    plain = fo.data.Images(images.images, name="snapshots")
    net = fo.mlp(images.shape, [12], rule=fo.rules.Projection(classes=4))
    for ask in (
        lambda: fo.fit(net, plain, epochs=1),
        lambda: fo.probe(network(images), plain),
        lambda: fo.probe(network(images), images, plain),
        lambda: fo.data.hold_out(plain, 5, 0),
    ):
        with pytest.raises(ValueError, match="snapshots: these images have no labels"):
            ask()
    fo.fit(net, images, epochs=1, batch_size=16)
    with pytest.raises(ValueError, match="snapshots: these images have no labels"):
        fo.evaluate(net, plain)
    with pytest.raises(ValueError, match="at least 2 classes, not 0"):
        fo.rules.make("projection")


def test_images_without_labels():
    plain = fo.data.Images(np.zeros((5, 1, 4, 4), np.uint8), name="snapshots")
    assert (len(plain), plain.labelled, plain.labels.tolist()) == (5, False, [-1] * 5)
    assert repr(plain) == "<Images 'snapshots': 5 of 1 x 4 x 4 without labels, on cpu>"
    assert not plain.subset(torch.tensor([1, 2])).labelled
    with pytest.raises(ValueError, match="labels are of no class: name the classes"):
        fo.data.Images(plain.images, torch.tensor([-1, -1, 1, -1, -1]))
    with pytest.raises(ValueError, match="label -1 is out of range"):
        fo.data.Images(plain.images, torch.tensor([-1, -1, 1, -1, -1]), ("a", "b"))


def test_no_classifier_comes_of_a_rule_without_labels(digits):
    X, y = digits.train.images.flatten(1).numpy(), digits.train.labels.numpy()
    with pytest.raises(ValueError, match="learns without labels, so it makes no estimator"):
        ForwardOnlyClassifier("self-contrastive", (20,), epochs=1).fit(X, y)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unlabelled"
    words = ["train", "--rule", "ff-unsupervised", "--epochs", "1", "--hidden", "20", "16", "--out", str(folder)]
    assert cli.main(words) == 0
    return folder


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "predict", "serve", "export"])
def test_commands_that_need_class_scores_say_the_same(run, command, capsys):
    more = [str(run / "model.safetensors")] if command == "predict" else []
    assert cli.main([command, str(run), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"forwardonly: {NO_SCORES}") and "\n" not in err[:-1]


def test_its_weights_can_be_exported(run, tmp_path):
    assert cli.main(["export", str(run), "--format", "safetensors", "--out", str(tmp_path / "out")]) == 0
    assert same(fo.load(run), fo.load(tmp_path / "out"))


def test_commands_say_no_to_images_held_out_and_to_a_comparison(tmp_path, capsys):
    words = ["train", "--rule", "simclr", "--validation", "100", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "no accuracy on validation or test images" in capsys.readouterr().err
    assert cli.main(["compare", "--rules", "ff", "self-contrastive", "--out", str(tmp_path / "compared")]) == 2
    assert "'self-contrastive' learns without labels" in capsys.readouterr().err


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "numpy", "set", "by index", "loader", "batches"])
def test_inputs_of_any_origin_will_do_with_targets_or_without(images, kind, labelled):
    x, y = images.images, images.labels + 40  # labels that no class has

    class ByIndex(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return (x[index], int(y[index])) if labelled else x[index]

    tensors = TensorDataset(x, y) if labelled else TensorDataset(x)
    data = {
        "arrays": (x, y) if labelled else x,
        "numpy": (x.numpy(), y.numpy()) if labelled else x.numpy(),
        "set": tensors,
        "by index": ByIndex(),
        "loader": DataLoader(tensors, 16),
        "batches": [(x[:16], y[:16]), (x[16:32], y[16:32])] if labelled else [x[:16], x[16:32]],
    }[kind]
    size = {} if kind in ("loader", "batches") else {"batch_size": 16}
    net = network(images)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    run = fo.fit(net, data, epochs=1, seed=5, **size)
    assert all(np.isfinite(run.history[-1]["loss"]))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_is_made_of_pictures_refuses_rows_in_a_sentence():
    with pytest.raises(ValueError, match=r"ff-unsupervised mixes pictures, and the network takes \(10,\)"):
        fo.mlp((10,), [8], rule=fo.rules.ForwardForwardUnsupervised())
    with pytest.raises(ValueError, match=r"label_placement everywhere needs pictures, and the network takes \(10,\)"):
        fo.mlp((10,), [8], rule=fo.rules.ForwardForward(classes=3, label_placement="everywhere"))
    net = fo.mlp((10,), [8], rule=fo.rules.SelfContrastive())
    assert np.isfinite(fo.fit(net, torch.rand(64, 10), epochs=1, batch_size=16).history[-1]["loss"]).all()
