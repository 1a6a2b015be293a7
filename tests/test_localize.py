"""`localize`: cutting models that were not written for this library into blocks."""

import pytest
import torch
from torch import nn

import forwardonly as fo


class Residual(nn.Module):
    """torchvision's BasicBlock in shape: two convolutions and a shortcut."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(fan_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.downsample = None
        if stride != 1 or fan_in != fan_out:
            self.downsample = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    """A small network with the modules and the forward of torchvision's ResNet."""

    def __init__(self, classes=4):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Residual(8, 8, 1), Residual(8, 8, 1))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, classes)

    def forward(self, x):
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def names(network):
    """The weights of each block, by the names they had in the model."""
    return [
        sorted(name for name, _ in block.body.named_parameters() if "conv" in name or "fc" in name)
        for block in network.row
    ]


def localize(model=None, **options):
    rule = options.pop("rule", fo.rules.Projection(classes=4))
    return fo.localize(model or ResNet(), rule, shape=options.pop("shape", (1, 6, 6)), **options)


def test_stages_are_the_default_and_the_head_is_left_out():
    network = localize()
    assert [parts[0] for parts in names(network)] == ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight"]
    assert [len(parts) for parts in names(network)] == [1, 4, 4]
    assert any("bn1" in name for name, _ in network.row[0].body.named_parameters())


def test_depth_two_cuts_each_residual_unit():
    units = [parts[0].removesuffix(".conv1.weight") for parts in names(localize(depth=2))[1:]]
    assert units == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]


def test_depth_three_cannot_cut_through_a_shortcut():
    assert len(localize(depth=3).row) == 5


def test_a_pattern_names_where_blocks_end():
    assert [len(parts) for parts in names(localize(pattern=r"relu|layer1\.0"))] == [1, 2, 6]


def test_a_wall_inside_a_shortcut_is_one_clear_sentence():
    with pytest.raises(ValueError, match=r"No wall can stand behind 'layer1\.0\.conv1'"):
        localize(pattern=r"layer1\.0\.conv1")


def test_the_blocks_in_a_row_compute_what_the_model_does():
    model = ResNet().eval()
    network = fo.localize(model, fo.rules.Projection(classes=4), shape=(1, 6, 6), keep_head=True, depth=2).eval()
    x = torch.rand(5, 1, 6, 6)
    last = [activation for _, activation, _ in network.activations(x)][-1]
    torch.testing.assert_close(last, model(x))


def test_weights_are_the_models_own():
    model = ResNet()
    ours = {id(parameter) for block in localize(model).row for parameter in block.body.parameters()}
    theirs = {id(parameter) for name, parameter in model.named_parameters() if not name.startswith("fc")}
    assert ours == theirs


def test_no_gradient_crosses_a_cut(images):
    network = localize(depth=2)
    signal = network.prepare(images.images)
    for block in network.row:
        activation = block(signal)
        signal = block.pass_on(activation, signal)
    block.rule.loss(activation, images.labels).backward()
    assert all(parameter.grad is None for other in network.row[:-1] for parameter in other.parameters())


@pytest.mark.parametrize("rule", [fo.rules.Similarity, fo.rules.ChannelLearnable, fo.rules.Backprop])
def test_a_localized_network_learns(images, rule):
    network = localize(rule=rule(classes=4))
    assert len(network.row) == (1 if rule is fo.rules.Backprop else 3)
    run = fo.fit(network, images, epochs=8, batch_size=20, learning_rate=3e-3, precision="fp32")
    assert run.history[-1]["loss"][-1] < run.history[0]["loss"][-1]


def test_a_sequential_is_cut_at_its_layers():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4)
    )
    network = localize(model)
    assert [sum(isinstance(part, nn.Linear) for part in block.body.modules()) for block in network.row] == [1, 1]


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (Branching(), {}, "cannot be traced by torch.fx"),
        (ResNet(), {"depth": 0}, "Give depth, 1 or more, or pattern"),
        (ResNet(), {"depth": 1, "pattern": "x"}, "but not both"),
        (ResNet(), {"pattern": "stage.*"}, "matches no module"),
        (ResNet(), {"pattern": "("}, "not a regular expression"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), nn.Linear(16, 8), nn.ReLU()),
            {},
            "gives a tensor of 3 dimensions",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_clear_sentence(model, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        localize(model, **options)


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.ReLU())
    model[3].weight = model[1].weight
    return model


def with_one_memory():
    model = tied()
    model[3].weight = nn.Parameter(model[1].weight.data.T)
    return model


class Twice(nn.Module):
    """Calls one layer twice, or adds one bias twice."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(1, 4, 3, padding=1), layer, nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.layer(self.last(self.layer(self.first(x))))


class OneBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x):
        return torch.relu(self.two(torch.relu(self.one(x) + self.bias)) + self.bias)


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [
        (tied, "1.weight", "3.weight"),
        (with_one_memory, "1.weight", "3.weight"),
        (lambda: Twice(nn.Conv2d(4, 4, 1)), "layer.weight", "is used in blocks"),
        (lambda: Twice(nn.BatchNorm2d(4)), "layer.weight", "is used in blocks"),
        (lambda: Twice(nn.BatchNorm2d(4, affine=False)), "layer.running_mean", "is used in blocks"),
        (OneBias, "bias", "is used in blocks"),
    ],
)
def test_a_weight_on_both_sides_of_a_wall_is_named_in_both_places(model, first, second):
    with pytest.raises(ValueError, match="learn from its own loss alone") as refusal:
        localize(model(), depth=1)
    assert first in str(refusal.value) and second in str(refusal.value)
    assert len(localize(model(), rule=fo.rules.Backprop(classes=4)).row) == 1  # no wall is between them


def test_a_frozen_weight_may_be_shared_and_a_layer_without_weights_called_twice(images):
    model = tied()
    model[1].weight.requires_grad_(False)
    assert len(localize(model).row) == 2
    assert len(localize(Twice(nn.ReLU())).row) == 2
    constant = OneBias()
    constant.bias.requires_grad_(False)
    assert len(localize(constant).row) == 2


@pytest.mark.parametrize("shared", ["block", "body", "rule", "weight"])
def test_a_network_whose_blocks_share_weights_is_refused(images, shared):
    one, two = fo.mlp(images.shape, [36, 36, 36], rule=fo.rules.ChannelLearnable(classes=4)).row[1:]
    if shared == "block":
        two = one
    elif shared == "body":
        two.body = one.body
    elif shared == "rule":
        two.rule = one.rule
    else:
        two.body[-2].weight = one.body[-2].weight
    with pytest.raises(ValueError, match=r"Blocks 0 and 1 share a weight, '(body|rule)"):
        fo.Network([one, two], shape=images.shape)
