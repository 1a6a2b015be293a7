"""Bodies: shapes at odd sizes, numbers of weights, norms and joins between layers, stems, error sentences."""

import dataclasses

import numpy as np
import pytest
import torch

import forwardonly as fo
from forwardonly.bodies import residual, resnet
from forwardonly.bodies.dropout import Dropout
from forwardonly.bodies.layers import Whitening

RULES = [name for name, entry in fo.rules.TABLE.items() if issubclass(fo.rules.rule_class(entry), fo.rules.OnePassRule)]
SMALL = {
    "mlp": {"hidden": (30, 30)},
    "cnn": {"width": 0.1},
    "conv": {"depth": 3, "channels": 12},
    "six": {"width": 0.1},
    "vgg8b": {"width": 0.05},
    "tinycnn": {"width": 0.04},
    "resnet17": {"width": 0.04},
    "resnet18": {"width": 0.1},
    "resnet56": {"width": 0.25, "walls": 5},
    "transformer": {"depth": 1, "channels": 16, "patch": 5},
    "separable": {"channels": (9, 12, 12)},
}


def build(body, shape, rule="projection", classes=3, **options):
    return fo.build(fo.bodies.TABLE[body](**options), shape, rule=fo.rules.TABLE[rule](classes=classes))


def shapes(network):
    images = network.prepare(torch.zeros(1, *network.shape))
    return network.eval().each(images, lambda block, activation, passed: tuple(activation.shape[1:]))


def weights(network):
    return sum(parameter.numel() for block in network.row for parameter in block.body.parameters())


def some(shape, count=24, classes=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return fo.data.Images(images, torch.arange(count) % classes, tuple(map(str, range(classes))), "random")


@pytest.mark.parametrize("body", SMALL)
def test_a_label_classifier_reads_what_every_body_passes_on(body):
    """A residual block passes on more channels than its activation has."""
    shape = (1, 25, 20)
    network = build(body, shape, "ff", **SMALL[body])
    run = fo.fit(network, some(shape), epochs=1, batch_size=12, precision="fp32")
    assert torch.isfinite(torch.tensor(run.history[-1]["loss"])).all()
    assert network.scores(some(shape).images).shape == (len(network.row), 24, 3)


def test_every_body_is_small_enough_to_be_tested_here():
    assert SMALL.keys() == fo.bodies.TABLE.keys()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("body", SMALL)
def test_every_body_learns_under_every_one_pass_rule(body, rule):
    shape = (1, 25, 20)
    network = build(body, shape, rule, **SMALL[body])
    before = [parameter.clone() for parameter in network.parameters()]
    run = fo.fit(network, some(shape), epochs=2, batch_size=12, precision="fp32")
    assert torch.isfinite(torch.tensor(run.history[-1]["loss"])).all()
    assert all(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert network.scores(some(shape).images).shape == (len(network.row), 24, 3)


def test_resnet17_is_the_papers():
    network = build("resnet17", (3, 32, 32), classes=10)
    assert weights(network) == pytest.approx(30.6e6, rel=0.01)
    sizes = [(100, 32)] * 5 + [(200, 16)] * 4 + [(400, 8)] * 4 + [(800, 4)] * 4
    assert shapes(network) == [(channels, side, side) for channels, side in sizes]


def test_tinycnn_is_the_papers():
    """With the votes of its ten classes and a temperature a block."""
    network = build("tinycnn", (3, 32, 32), "channel-learnable", classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_678_504
    assert shapes(network) == [(100, 32, 32), (200, 16, 16), (400, 8, 8), (400, 8, 8)]


@pytest.mark.parametrize(("body", "count", "blocks"), [("resnet18", 11_173_962, 9), ("resnet56", 853_018, 28)])
def test_residual_nets_are_the_papers(body, count, blocks):
    """With the linear classifier of ten classes, 11.17 M and 0.85 M, however many walls they have."""
    whole = build(body, (3, 32, 32), "backprop", classes=10)
    assert sum(parameter.numel() for parameter in whole.parameters()) == count
    cut = build(body, (3, 32, 32), classes=10)
    assert len(cut.row) == blocks and weights(cut) == weights(whole)
    stages, side = fo.bodies.TABLE[body].channels, {"resnet18": 4, "resnet56": 8}[body]
    assert shapes(cut)[0] == (stages[0], 32, 32) and shapes(cut)[-1] == (stages[-1], side, side)


def test_five_walls_of_resnet18_are_behind_its_first_convolution_and_its_stages():
    five = build("resnet18", (3, 32, 32), classes=10, walls=5)
    assert shapes(five) == [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    counts = [len(block.body) for block in build("resnet56", (3, 32, 32), classes=10, walls=5).row]
    assert counts == [5, 6, 5, 6, 6]


@pytest.mark.parametrize("body", ["resnet18", "resnet56"])
def test_walls_change_no_weight_and_no_activation(body):
    images = some((1, 12, 12)).images
    ends = []
    for walls in (1, 5, None):
        network = build(body, (1, 12, 12), width=0.25, walls=walls).eval()
        ends.append(network.each(network.prepare(images), lambda block, activation, passed: activation)[-1])
    torch.testing.assert_close(ends[1], ends[0])
    torch.testing.assert_close(ends[2], ends[0])


@pytest.mark.parametrize("shortcut", ["padded", "projected"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_basic_block_is_the_papers(shortcut, stride):
    """Written from arXiv 1512.03385, figure 2 and section 3.3, by torch's own functions."""
    from torch.nn import functional as F

    torch.manual_seed(0)
    block = resnet.BasicBlock(4, 4 * stride, stride, projected=shortcut == "projected").double().eval()
    for norm in block.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
                values.uniform_(0.5, 2.0)

    def normed(maps, norm):
        return F.batch_norm(maps, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    maps = torch.randn(3, 4, 7, 8, dtype=torch.float64)
    first, one, _, second, two = block.convolved
    inner = normed(F.conv2d(maps, first.weight, stride=stride, padding=1), one).clamp_min(0)
    inner = normed(F.conv2d(inner, second.weight, padding=1), two)
    around = maps
    if stride == 2 and shortcut == "projected":
        around = normed(F.conv2d(maps, block.shortcut[0].weight, stride=2), block.shortcut[1])
    elif stride == 2:
        around = torch.zeros_like(inner)
        around[:, 2:6] = maps[:, :, ::2, ::2]
    torch.testing.assert_close(block(maps), (inner + around).clamp_min(0))


def test_six_has_two_million_weights():
    network = build("six", (3, 32, 32), classes=10)
    assert weights(network) == pytest.approx(2.0e6, rel=0.02)
    assert [shape[1] for shape in shapes(network)] == [15, 15, 7, 7, 3, 3]


def test_vgg8b_is_the_papers():
    network = build("vgg8b", (3, 32, 32), classes=10)
    assert weights(network) == pytest.approx(8.9e6, rel=0.01)
    assert [shape[0] for shape in shapes(network)] == [128, 256, 256, 512, 512, 512, 1024]


@pytest.mark.parametrize("side", [1, 2, 7, 28, 31])
@pytest.mark.parametrize(("body", "halvings"), [("resnet17", 3), ("resnet18", 3), ("resnet56", 2)])
def test_residual_shapes_at_odd_sizes(side, body, halvings):
    network = build(body, (1, side, side), **SMALL[body])
    assert shapes(network)[-1][1] == -(-side // 2**halvings)
    assert network.predict(some((1, side, side)).images).shape == (24,)


def test_shortcuts_are_what_the_paper_says():
    """ADD after the second convolution of a stage, CONCAT after the fourth, on what was passed on."""
    network = build("resnet17", (1, 12, 12), "channel-learnable", width=0.04, dropout=0.0).eval()
    signal = network.prepare(some((1, 12, 12)).images)
    seen = network.each(
        signal, lambda block, activation, passed: (torch.nn.functional.instance_norm(activation), passed)
    )
    alone = [normed for normed, _ in seen]
    torch.testing.assert_close(seen[0][1], alone[0])
    torch.testing.assert_close(seen[2][1], alone[2] + alone[0])
    torch.testing.assert_close(seen[4][1], torch.cat([alone[4], seen[2][1]], dim=1))
    pooled = torch.nn.functional.avg_pool2d(seen[4][1], 2)
    torch.testing.assert_close(seen[6][1], alone[6] + pooled)
    torch.testing.assert_close(seen[-1][1], alone[-1])


def test_no_gradient_crosses_a_shortcut():
    network = build("resnet17", (1, 12, 12), width=0.04)
    signal = network.prepare(some((1, 12, 12)).images)
    for block in network.row:
        activation = block(signal)
        signal = block.pass_on(activation, signal)
        parts = signal if isinstance(signal, tuple) else (signal,)
        assert not any(part.requires_grad for part in parts)
    block.rule.loss(activation, some((1, 12, 12)).labels).backward()
    assert all(parameter.grad is None for other in network.row[:-1] for parameter in other.parameters())


def test_joins_alone():
    main, shortcut = torch.rand(2, 4, 3, 3), torch.rand(2, 4, 5, 5)
    pooled = torch.nn.functional.avg_pool2d(shortcut, 2, ceil_mode=True)
    torch.testing.assert_close(residual.add(main, (main, shortcut)), main + pooled)
    torch.testing.assert_close(residual.concat(main, (main, shortcut)), torch.cat([main, pooled], 1))


@pytest.mark.parametrize("body", SMALL)
def test_backprop_is_the_same_function_as_the_blocks(body):
    """With the same weights, the baseline's last activation is that of the blocks under a rule that normalises
    nothing.
    """
    shape = (1, 20, 20)
    local, whole = (build(body, shape, rule, **SMALL[body]).eval() for rule in ("projection", "backprop"))
    whole.row[0].body.bodies.load_state_dict(torch.nn.ModuleList(block.body for block in local.row).state_dict())
    for network in (local, whole):
        network.prepare.fit(some(shape).images)
    prepared = local.prepare(some(shape).images)
    activation = local.each(prepared, lambda block, activation, passed: activation)[-1]
    with torch.no_grad():
        torch.testing.assert_close(whole.row[0](whole.prepare(some(shape).images)), activation)


def test_backprop_reaches_the_first_layer_of_a_residual_net():
    network = build("resnet17", (1, 12, 12), "backprop", width=0.04)
    network.row[0].rule.loss(
        network.row[0](network.prepare(some((1, 12, 12)).images)), some((1, 12, 12)).labels
    ).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_separable_layers_are_a_filter_a_channel_and_a_mix_of_channels():
    network = build("separable", (3, 32, 32), channels=(8, 16, 24), pools=2)
    assert shapes(network) == [(8, 16, 16), (16, 8, 8), (24, 8, 8)]
    assert weights(network) == (3 * 8 * 9 + 8) + (8 * 9 + 8 * 16 + 16) + (16 * 9 + 16 * 24 + 24)
    depthwise, pointwise = network.row[1].body[:2]
    maps = torch.randn(2, 8, 16, 16)
    dense = torch.zeros(16, 8, 3, 3)
    for out in range(16):
        for channel in range(8):
            dense[out, channel] = pointwise.weight[out, channel, 0, 0] * depthwise.weight[channel, 0]
    expected = torch.nn.functional.conv2d(maps, dense.detach(), pointwise.bias, padding=1)
    torch.testing.assert_close(pointwise(depthwise(maps)), expected, rtol=1e-4, atol=1e-4)


def test_separable_layers_are_one_dimensional_on_maps_of_height_one():
    network = build("separable", (12, 1, 29), channels=(8, 16), kernel=5, pools=2)
    assert shapes(network) == [(8, 1, 14), (16, 1, 7)]
    assert network.row[0].body[0].weight.shape == (8, 12, 1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 8)])
def test_separable_layers_learn_digits(digits, shape):
    """As pictures, and their rows as a signal of eight channels."""
    train, test = (
        fo.data.Images(some.images.view(-1, *shape), some.labels, some.classes, "digits")
        for some in (digits.train, digits.test)
    )
    rule = fo.rules.Projection(classes=10)
    network = fo.build(fo.bodies.Separable(channels=(16, 32, 32), pools=1), shape, rule=rule)
    fo.fit(network, train, epochs=12, batch_size=32, precision="fp32")
    assert fo.evaluate(network, test).accuracy > 0.9


def test_whitening_makes_patches_uncorrelated():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 2, 9, 9, generator=generator).cumsum(3)  # strongly correlated along rows
    stem = Whitening(2)
    stem.fit(images)
    linear = torch.nn.functional.conv2d(images, stem.filters)[:, :8].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(torch.cov(linear), np.eye(8), atol=0.02)
    assert torch.equal(stem.filters[8:], -stem.filters[:8])


def test_a_stem_with_a_stride_of_two_reads_every_second_window():
    images, (near, far) = torch.randn(20, 1, 8, 8), (Whitening(1, stride) for stride in (1, 2))
    for stem in (near, far):
        stem.fit(images)
    assert torch.equal(far.filters, near.filters)
    torch.testing.assert_close(far(images), near(images)[:, :, ::2, ::2])
    assert shapes(build("six", (3, 64, 64), stride=2, width=0.1))[0] == (6, 16, 16)


def test_a_network_with_a_stem_is_saved_with_it(tmp_path):
    images = some((1, 12, 12))
    network = build("six", (1, 12, 12), width=0.1)
    fo.fit(network, images, epochs=1, batch_size=12, precision="fp32")
    fo.save(network, tmp_path)
    assert torch.equal(fo.load(tmp_path).scores(images.images), network.eval().scores(images.images))


def test_contrastive_rules_run_on_feature_maps():
    network = build("cnn", (1, 12, 12), "ff", width=0.1)
    fo.fit(network, some((1, 12, 12)), epochs=1, batch_size=12, precision="fp32")
    assert network.predict(some((1, 12, 12)).images).shape == (24,)


@pytest.mark.parametrize("rule", RULES)
def test_one_channel_and_two_hundred_classes(rule):
    network = build("cnn", (1, 16, 16), rule, classes=200, width=3.2)
    assert network.scores(some((1, 16, 16), 2).images).shape[2] == 200


@pytest.mark.parametrize(
    ("body", "shape", "options", "sentence"),
    [
        ("vgg8b", (3, 8, 8), {}, "halves its maps 4 times: images must be at least 16 pixels a side, not 8"),
        ("six", (3, 8, 8), {}, "images must be at least 9 pixels a side, not 8"),
        ("six", (3, 15, 15), {"stride": 2}, "images must be at least 16 pixels a side, not 15"),
        ("six", (3, 32, 32), {"stride": 3}, "stride must be 1 or 2"),
        ("cnn", (3, 32, 32), {"width": 0.001}, "leaves no channel"),
        ("cnn", (3, 32, 32), {"dropout": 1.0}, "dropout is a share"),
        ("resnet17", (3, 32, 32), {"dropout": -0.1}, "dropout is a share"),
        ("tinycnn", (3, 3, 3), {}, "halves its maps 2 times: images must be at least 4 pixels a side, not 3"),
        ("tinycnn", (3, 32, 32), {"dropout": 1.0}, "dropout is a share"),
        ("resnet18", (3, 32, 32), {"walls": 10}, "resnet18 has 9 units: walls must be from 1 to 9, not 10"),
        ("resnet56", (3, 32, 32), {"walls": 0}, "resnet56 has 28 units: walls must be from 1 to 28, not 0"),
        ("resnet56", (3, 32, 32), {"width": 0.01}, "leaves no channel"),
        ("conv", (3, 32, 32), {"depth": 0}, "depth and channels must be at least 1"),
        ("separable", (3, 8, 8), {"pools": 4}, "halves its maps 4 times: they must be at least 16 long, not 8"),
        ("separable", (3, 8, 8), {"kernel": 2}, "kernel must be an odd number"),
        ("separable", (3, 8, 8), {"pools": 5}, "pools must be from 0 to the 4 layers"),
        ("separable", (3, 8, 8), {"channels": ()}, "channels must name at least one layer"),
        ("transformer", (3, 32, 32), {"patch": 5}, "patch must divide the image's sides"),
        ("transformer", (3, 32, 32), {"heads": 3}, "heads divide channels"),
    ],
)
def test_what_makes_no_network_is_one_clear_sentence(body, shape, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(body, shape, **options)


def test_every_option_of_a_body_is_a_value_that_json_can_hold():
    for name, options in SMALL.items():
        for value in dataclasses.asdict(fo.bodies.TABLE[name](**options)).values():
            assert isinstance(value, int | float | tuple | None)


def test_the_walls_of_a_network_are_saved_with_it(tmp_path):
    images = some((1, 12, 12))
    network = build("resnet18", (1, 12, 12), width=0.1, walls=5)
    fo.save(network, tmp_path)
    again = fo.load(tmp_path)
    assert len(again.row) == 5
    assert torch.equal(again.eval().scores(images.images), network.eval().scores(images.images))


@pytest.mark.parametrize("channels_last", [False, True])
def test_dropout_drops_its_share_and_keeps_the_mean(channels_last):
    dropout = Dropout(0.3)
    maps = torch.ones(40, 25, 16, 16, requires_grad=True)
    maps = maps.to(memory_format=torch.channels_last) if channels_last else maps
    torch.manual_seed(0)
    first = dropout(maps)
    stays = 1 - round(256 * 0.3) / 256
    assert first.unique().tolist() == pytest.approx([0.0, 1 / stays])
    assert (first > 0).float().mean().item() == pytest.approx(stays, abs=3e-3)
    assert (first > 0).float().mean((0, 2, 3)).std() < 8e-3  # no channel is favoured: 10,240 draws each
    (gradient,) = torch.autograd.grad(first.sum(), maps)
    torch.testing.assert_close(gradient, first.detach())
    assert not torch.equal(first, dropout(maps))
    torch.manual_seed(0)
    assert torch.equal(first, dropout(maps))  # same seed, same bits
    assert torch.equal(dropout.eval()(maps), maps)
