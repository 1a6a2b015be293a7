"""`fo.fit` on data of every origin: the same bits as on our own sets, resumed at any step, refused in a sentence."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import forwardonly as fo
from forwardonly.training import Interrupted


@pytest.fixture(scope="module")
def small():
    return fo.data.load("digits").train.subset(torch.arange(200))


def fresh(shape=(1, 8, 8), classes=10, **options):
    return fo.mlp(shape, (16, 12), rule=fo.rules.Projection(classes=classes), seed=1, **options)


def weights(network):
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])


class ByIndex(Dataset):
    def __init__(self, images):
        self.images = images
        self.classes = list(images.classes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images.images[index], int(self.images.labels[index])


class Many(IterableDataset):
    """Single examples, without a length."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        yield from zip(self.images.images, self.images.labels, strict=True)


@pytest.mark.parametrize("rule", ["projection", "ff", "cff-adaptive"])
@pytest.mark.parametrize(
    "options", [{}, {"schedule": "greedy"}, {"workers": 2}, {"crop": 1, "flip": "alternating"}], ids=str
)
def test_the_same_bits_in_memory_and_by_index(small, rule, options):
    if rule == "cff-adaptive" and "workers" in options:
        pytest.skip("such blocks learn together")
    extra = {"negatives": "uniform", "predict": "goodness"} if rule == "ff" else {}
    found = []
    for data in (small, (small.images, small.labels), (small.images.numpy(), small.labels.numpy()), ByIndex(small)):
        net = fo.mlp((1, 8, 8), (16, 12), rule=fo.rules.make(rule, classes=10, **extra), seed=1)
        run = fo.fit(net, data, validation=data, epochs=2, precision="fp32", seed=3, **options)
        found.append((weights(net), [row["validation_accuracy"] for row in run.history]))
        assert net.class_names == small.classes
    assert all(torch.equal(found[0][0], other[0]) and found[0][1] == other[1] for other in found)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loaders_batches_go_by_as_they_are(small, workers):
    """Each is seen once an epoch, whole, also the small last one; a loader that shuffles follows the run's seed."""
    seen, net = [], fresh()
    before = torch.random.get_rng_state()
    prepare = net.prepare.forward
    net.prepare.forward = lambda images: seen.append(len(images)) or prepare(images)
    loader = DataLoader(ByIndex(small), 64, shuffle=True, num_workers=workers)
    run = fo.fit(net, loader, epochs=2, seed=5, precision="fp32")
    assert seen[-8:] == [64, 64, 64, 8] * 2 and len(run.history) == 2
    assert torch.equal(torch.random.get_rng_state(), before)
    again, other = fresh(), fresh()
    fo.fit(again, DataLoader(ByIndex(small), 64, shuffle=True), epochs=2, seed=5, precision="fp32")
    fo.fit(other, DataLoader(ByIndex(small), 64, shuffle=True), epochs=2, seed=6, precision="fp32")
    assert torch.equal(weights(net), weights(again)) and not torch.equal(weights(net), weights(other))


def stop_after(steps):
    """Ctrl-C at that step."""
    import os
    import signal

    def progress(event):
        if event.step == steps:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def sources(small):
    """Fresh data of each kind, and how long to train on it: as a new process would make them."""
    hugging = pytest.importorskip("datasets").Dataset.from_dict(
        {"image": small.images.flatten(1).tolist(), "label": small.labels.tolist()}
    )
    flat = [(small.images[k : k + 20], small.labels[k : k + 20]) for k in range(0, 200, 20)]
    return {
        "by index": (lambda: ByIndex(small), {"epochs": 3, "batch_size": 20}, {}),
        "wrapped": (lambda: ByIndex(small), {"steps": 25, "batch_size": 24}, {}),
        "loader": (lambda: DataLoader(ByIndex(small), 20, shuffle=True), {"epochs": 3}, {}),
        "list": (lambda: list(flat), {"epochs": 3}, {}),
        "generator": (lambda: iter(flat * 3), {"steps": 25}, {}),
        "function": (lambda: lambda: iter(flat), {"steps": 24, "epochs": 2}, {}),
        "examples": (lambda: Many(small), {"steps": 25, "batch_size": 16}, {}),
        "streaming": (lambda: hugging.to_iterable_dataset(), {"steps": 25, "batch_size": 16}, {"shape": (64,)}),
    }


KINDS = ("by index", "wrapped", "loader", "list", "generator", "function", "examples", "streaming")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [1, 13, 23])
def test_stopped_at_any_step_a_run_goes_on_to_the_same_bits(small, kind, at, tmp_path):
    make, length, own = sources(small)[kind]
    options = {**length, "precision": "fp32", "seed": 2}
    whole = fresh(**own)
    fo.fit(whole, make(), **options)
    with pytest.raises(Interrupted):
        fo.fit(fresh(**own), make(), out=tmp_path, progress=stop_after(at), **options)
    resumed = fresh(**own)
    run = fo.fit(resumed, make(), out=tmp_path, resume=True, **options)
    assert torch.equal(weights(whole), weights(resumed))
    assert len(run.history) == length.get("epochs", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_other_data_are_not_resumed_with(small, kind, tmp_path):
    make, length, own = sources(small)[kind]
    with pytest.raises(Interrupted):
        fo.fit(fresh(**own), make(), out=tmp_path, progress=stop_after(13), **length)
    other = fo.data.Images(small.images.flip(0).contiguous(), small.labels, small.classes, "digits")
    if kind == "streaming":
        pytest.skip("it goes on by its own state, without reading what was before")
    changed, _, _ = sources(other)[kind]
    with pytest.raises(ValueError, match=r"learned from other images|gives other batches than when"):
        fo.fit(fresh(**own), changed(), out=tmp_path, resume=True, **length)


class Adds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

    def forward(self, x, z):
        return self.two(self.one(x + z).relu()).relu()


def held(small, form):
    """Data in memory in which several tensors lie, and a fresh network for them."""
    x, y = small.images.flatten(1) / 255, small.labels
    if form == "list":
        return fresh((64,)), list(zip(x, y.tolist(), strict=True))
    several = {"x": x, "z": x} if form == "dict" else (x, x)
    torch.manual_seed(0)
    few = {name: part[:2] for name, part in several.items()} if form == "dict" else (x[:2], x[:2])
    net = fo.localize(Adds(), fo.rules.Projection(classes=10), few)
    return net, TensorDataset(x, x, y) if form == "set" else (several, y)


@pytest.mark.parametrize("form", ["dict", "tuple", "set", "list"])
def test_data_in_memory_are_compared_whole(small, form, tmp_path):
    """Also where their first and last examples are those that the run had."""
    net, data = held(small, form)
    fo.fit(net, data, epochs=1, out=tmp_path)
    inner = torch.arange(1, 199)
    order = torch.cat([torch.tensor([0]), inner.flip(0), torch.tensor([199])])
    pixels = small.images.clone()
    pixels[100, 0, 3, 3] ^= 1
    for images, labels in (
        (small.images[order], small.labels[order]),
        (pixels, small.labels),
        (small.images, small.labels[order]),
    ):
        net, other = held(fo.data.Images(images, labels, small.classes, "other"), form)
        with pytest.raises(ValueError, match="learned from other images"):
            fo.fit(net, other, epochs=2, out=tmp_path, resume=True)
    net, data = held(small, form)
    assert len(fo.fit(net, data, epochs=2, out=tmp_path, resume=True).history) == 2


def test_a_run_by_steps_goes_on_with_more_of_them(small, tmp_path):
    flat = [(small.images[k : k + 20], small.labels[k : k + 20]) for k in range(0, 200, 20)]
    fo.fit(fresh(), lambda: iter(flat), steps=20, epochs=2, out=tmp_path)
    run = fo.fit(fresh(), lambda: iter(flat), steps=30, epochs=3, out=tmp_path, resume=True)
    assert [row["epoch"] for row in run.history] == [0, 1, 2]
    with pytest.raises(ValueError, match="as many steps in an epoch"):
        fo.fit(fresh(), lambda: iter(flat), steps=60, epochs=4, out=tmp_path, resume=True)


class Lying(DataLoader):
    says = 0

    def __len__(self):
        return self.says


@pytest.mark.parametrize(("says", "words"), [(7, "has 7 batches and gave 5"), (3, "has 3 batches and gives more")])
def test_a_length_that_lies(small, says, words):
    loader = Lying(TensorDataset(small.images, small.labels), 40)
    loader.says = says
    with pytest.raises(ValueError, match=words):
        fo.fit(fresh(), loader, epochs=2)


def never(small):
    while True:
        yield small.images[:20], small.labels[:20]


REFUSED = [
    (lambda s: never(s), {}, "a generator, which ends after one epoch: choose epochs=1, or steps=N"),
    (lambda s: never(s), {"epochs": 1}, "has no length, so an epoch has no end: say how long to train by steps=N"),
    (lambda s: iter([(s.images, s.labels)] * 3), {"steps": 5}, "ended after 3 batches and cannot begin again"),
    (lambda s: iter([]), {"steps": 5}, "gave nothing"),
    (lambda s: [(s.images, s.labels), (s.images, s.labels + 1)], {"epochs": 1}, "batch 1: the label '10' is not among"),
    (lambda s: [(s.images.float(), s.labels), (s.images / 0.0, s.labels)], {"epochs": 1}, "batch 1 holds NaN"),
    (
        lambda s: [(s.images, s.labels), (s.images[:, :, :4], s.labels)],
        {"epochs": 1},
        r"of \(1, 8, 8\), not \(1, 4, 8\)",
    ),
    (lambda s: [(s.images, s.labels[:-1])], {"epochs": 1}, "200 inputs but 199 targets"),
    (lambda s: [s.images, s.images], {"epochs": 1}, "inputs without targets"),
    (lambda s: never(s), {"steps": 4, "validation": never}, "a generator ends after the first"),
    (lambda s: [(s.images, s.labels)], {"epochs": 1, "flip": "alternating"}, "flip alternating needs to know"),
    (lambda s: s, {"epochs": 2, "steps": 5}, "steps must be a multiple of the 2 epochs"),
    (lambda s: (s.images, s.labels), {"classes": range(3)}, "the label 3|label '3' is not among|out of range"),
    (lambda s: [(s.images, s.labels)], {"epochs": 1, "batch_size": 9}, "go by as they are: leave batch_size out"),
    (lambda s: None, {}, "not NoneType"),
    (lambda s: ByIndex(s), {"validation": ByIndex, "diagnose": True}, "diagnose needs validation images in memory"),
]


@pytest.mark.parametrize(("make", "options", "words"), REFUSED, ids=[words[:30] for *_, words in REFUSED])
def test_refused_in_one_sentence(small, make, options, words):
    options = dict(options)
    if "validation" in options:
        options["validation"] = options["validation"](small)
    with pytest.raises(ValueError, match=words) as caught:
        fo.fit(fresh(), make(small), **options)
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_and_batch_norm(small):
    net = fo.build(fo.bodies.CNN(width=0.1), (1, 8, 8), rule=fo.rules.make("best", classes=10))
    with pytest.raises(ValueError, match="needs 2 images a batch"):
        fo.fit(net, [(small.images[:9], small.labels[:9]), (small.images[:1], small.labels[:1])], epochs=1)


def test_names_of_classes_are_kept_and_compared_ever_after(small, tmp_path):
    names = [f"digit {label}" for label in small.labels.tolist()]
    net = fresh()
    fo.fit(net, (small.images, names), epochs=3, out=tmp_path)
    again = fo.load(tmp_path)
    assert again.class_names == tuple(f"digit {k}" for k in range(10))
    right = fo.evaluate(again, (small.images, names)).accuracy
    turned = list(range(9, -1, -1))
    other = fo.data.Images(small.images, 9 - small.labels, tuple(f"digit {k}" for k in turned), "turned")
    assert fo.evaluate(again, other).accuracy == right
    assert fo.evaluate(again, ByIndex(other)).accuracy == right
    assert fo.evaluate(again, (small.images, small.labels)).accuracy == right, "whole numbers are indices here"
    with pytest.raises(ValueError, match="'fish'"):
        fo.evaluate(again, (small.images[:2], ["digit 1", "fish"]))
    with pytest.raises(ValueError, match="'fish'"):
        fo.evaluate(again, [(small.images[:2], ["digit 1", "fish"])])
    mistaken = ByIndex(small)
    mistaken.classes = ["fish", *again.class_names[1:]]
    with pytest.raises(ValueError, match="has the class 'fish', which the network does not have"):
        fo.evaluate(again, mistaken)


def test_every_kind_is_measured_and_predicted_alike(small):
    net = fresh()
    fo.fit(net, small, epochs=2)
    accuracy, said = fo.evaluate(net, small).accuracy, net.predict(small.images)
    batches = [(small.images[k : k + 50], small.labels[k : k + 50]) for k in range(0, 200, 50)]
    kinds = [
        (small.images, small.labels),
        ByIndex(small),
        DataLoader(ByIndex(small), 30),
        batches,
        iter(batches),
        Many(small),
    ]
    for data in kinds:
        assert fo.evaluate(net, data).accuracy == accuracy
    for data in (small, ByIndex(small), DataLoader(ByIndex(small), 30), batches, [image for image, _ in batches]):
        assert torch.equal(net.predict(data), said)
    spent = iter(batches)
    fo.evaluate(net, spent)
    with pytest.raises(ValueError, match="gave nothing"):
        fo.evaluate(net, spent)


def test_a_mask_and_a_dict_go_to_the_model_as_they_are():
    """A body that takes the parts of its input by name; the wall behind it is as ever."""

    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 8)

        def forward(self, x):
            return torch.relu(self.linear(torch.where(x["mask"], x["values"], 0.0)))

    class Takes(fo.Block):
        def forward(self, incoming):
            return self.body(incoming)

    generator = torch.Generator().manual_seed(0)
    values, mask = torch.randn(120, 6, generator=generator), torch.rand(120, 6, generator=generator) > 0.3
    y = (torch.where(mask, values, 0.0).sum(1) > 0).long()
    rule = fo.rules.Projection(classes=2).for_block((8,), fo.rules.BlockPosition(0, 1))
    net = fo.Network([Takes(Masked(), rule)], shape=())
    x = {"values": values, "mask": mask}
    fo.fit(net, (x, y), epochs=20, batch_size=20, learning_rate=0.02)
    assert fo.evaluate(net, [({**x}, y)]).accuracy == fo.evaluate(net, (x, y)).accuracy > 0.9
    assert net.predict(x).shape == (120,)


def test_tables_are_standardised_only_where_the_user_says_so(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 1e4, 1e-3]) + torch.tensor([5.0, 0.0, 1.0])
    y = (x[:, 2] > 1).long()
    plain, scaled = (fo.mlp((3,), (16,), rule=fo.rules.Projection(classes=2), standardise=s) for s in (None, True))
    for net in (plain, scaled):
        fo.fit(net, (x, y), epochs=10, out=tmp_path / str(net is scaled))
    assert torch.equal(plain.prepare(x), x)
    assert scaled.prepare(x).std(0, correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    again = fo.load(tmp_path / "True")
    assert torch.equal(again.predict(x), scaled.predict(x)) and fo.evaluate(again, (x, y)).accuracy > 0.95
    assert json.loads((tmp_path / "True" / "config.json").read_text())["network"]["standardise"] is True
    series = fo.build(fo.bodies.MLP(hidden=(8,)), (2, 5), rule=fo.rules.Projection(classes=2), standardise=True)
    values = torch.randn(50, 2, 5, generator=generator) * 7 + 3
    fo.fit(series, (values, torch.arange(50) % 2), epochs=1)
    assert series.prepare(values).mean((0, 2)).abs().max() < 1e-5
