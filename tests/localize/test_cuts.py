"""Where walls stand in a model: by number or name, never across what both sides share, or a reason why not."""

import pytest
import torch
from torch import nn

import forwardonly as fo
from forwardonly.network import recurrent
from forwardonly.network.localize import LargeBlockWarning
from forwardonly.network.signal import tensors_in
from forwardonly.network.walls import record, settle

from .models import ResNet, Switching, localize, maps

pytestmark = pytest.mark.filterwarnings("ignore::forwardonly.network.localize.LargeBlockWarning")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_layers_of_a_recurrent_stack_give_what_the_stack_gives(kind, options, packed):
    model = nn.ModuleDict({"stack": kind(3, 5, 3, **options)})
    stack = model["stack"]
    x = torch.randn(4, 6, 3)
    if packed:
        x = nn.utils.rnn.pack_padded_sequence(x, [4, 4, 3, 2, 1, 1])
    expected = stack(x)
    state = expected[1] if not packed else None
    expected = stack(x, state)
    layers = recurrent.layers_of(model)
    with recurrent.opened(model, layers):
        given = stack(x, state)
    assert all(map(torch.equal, tensors_in(given), tensors_in(expected)))
    assert "forward" not in vars(stack)
    assert list(recurrent.by_name(layers)) == ["stack.0", "stack.1", "stack.2"]


def walls(network):
    return list(network.walled.walls)


def test_blocks_by_number_are_even_and_by_name_where_they_are_named():
    layers = [nn.Flatten(), *(part for _ in range(8) for part in (nn.Linear(36, 36), nn.ReLU()))]
    assert walls(localize(nn.Sequential(*layers), blocks=4)) == ["4", "8", "12", "16"]
    assert walls(localize(blocks=["layer1", "relu"])) == ["relu", "layer1", "avgpool"]
    assert walls(localize(blocks=r"layer\d\.0")) == ["layer1.0", "layer2.0", "avgpool"]
    assert len(localize(blocks=1).row) == 1
    assert len(localize(rule=fo.rules.Backprop(classes=4)).row) == 1


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.ReLU(), nn.Linear(36, 36), nn.ReLU())
    model[3].weight = model[1].weight
    return model


def with_one_memory():
    model = tied()
    model[3].weight = nn.Parameter(model[1].weight.data.T)
    return model


class Twice(nn.Module):
    """Calls one layer on both sides of a wall."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Conv2d(1, 4, 3, padding=1), layer
        self.middle, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.last(self.layer(self.middle(self.layer(self.first(x))))))


class OneBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x):
        return torch.relu(self.last(self.middle(self.first(x) + self.bias) + self.bias))


@pytest.mark.parametrize(
    ("model", "wall", "words"),
    [
        (tied, "2", "'1.weight' and '3.weight' are one weight"),
        (with_one_memory, "2", "'1.weight' and '3.weight' are one weight"),
        (lambda: Twice(nn.Conv2d(4, 4, 1)), "middle", "'layer.bias'"),
        (lambda: Twice(nn.BatchNorm2d(4)), "middle", "'layer.bias'"),
        (lambda: Twice(nn.BatchNorm2d(4, affine=False)), "middle", "'layer.running_mean'"),
        (OneBias, "middle", "'bias'"),
    ],
)
def test_what_both_sides_of_a_wall_share_is_named(model, wall, words):
    with pytest.raises(ValueError, match=f"No wall can stand behind '{wall}'") as refusal:
        localize(model(), blocks=[wall])
    assert words in str(refusal.value) and "on both sides of it" in str(refusal.value)
    assert len(localize(model(), rule=fo.rules.Backprop(classes=4)).row) == 1  # no wall is between them


def test_a_model_that_no_wall_can_cut_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"'1\.weight' and '3\.weight' are one weight, used on both sides of it"):
        localize(tied())


def test_a_frozen_weight_may_be_shared_and_a_layer_without_weights_called_twice():
    model = tied()
    model[1].weight.requires_grad_(False)
    assert len(localize(model).row) == 2
    assert len(localize(Twice(nn.ReLU())).row) == 3


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(36, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.relu(self.one(x.flatten(1)))
        return torch.relu(self.two(x + torch.rand_like(x)))


class Everywhere(nn.Module):
    """A residual stream that every layer adds to, kept on the side, where no wall can stand."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(36, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = x.flatten(1)
        return self.two(torch.relu(self.one(x))) + self.one(x)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (ResNet, {"blocks": 100}, "can be cut into 1 to 10 blocks, not 100"),
        (ResNet, {"blocks": 0}, "can be cut into 1 to 5 blocks, not 0"),
        (ResNet, {"blocks": "stage.*"}, "matches no module"),
        (ResNet, {"blocks": "("}, "not a regular expression"),
        (ResNet, {"blocks": ["layer3"]}, "no module 'layer3': did you mean"),
        (ResNet, {"blocks": [r"layer1.0.conv1"]}, "No wall can stand behind 'layer1.0.conv1'"),
        (ResNet, {"example": torch.rand(2, 3, 6, 6)}, "does not take the example 2 x 3 x 6 x 6"),
        (ResNet, {"example": "pictures"}, "must be a tensor, or a tuple or dict of tensors, not str"),
        (ResNet, {"example": torch.rand(0, 1, 6, 6)}, "must hold inputs"),
        (ResNet, {"classes": 3}, "'classes' is no option of localize"),
        (lambda: "resnet18", {}, "such as 'timm:resnet18'"),
        (lambda: "hf:nowhere", {}, "nowhere has no config.json"),
        (Random, {}, "gives other outputs for the same inputs"),
        (Everywhere, {}, "No wall can stand inside the model"),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), {}, "No wall can stand in the model"),
        (
            Switching,
            {"rule": fo.rules.ForwardForward(classes=4), "example": torch.rand(4, 6)},
            "writes labels into images",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_clear_sentence(model, options, sentence):
    if model not in (ResNet,) and not isinstance(model(), str | ResNet):
        options.setdefault("example", maps())
    with pytest.raises(ValueError, match=sentence) as said:
        localize(model(), **options)
    assert "\n" not in str(said.value)


def test_a_block_with_most_of_the_weights_is_said():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 200), nn.ReLU(), nn.Linear(200, 4, bias=False), nn.ReLU())
    with pytest.warns(LargeBlockWarning, match=r"behind '2' has 90 % of the weights"):
        localize(model)


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


class Around(nn.Module):
    """y = c(b(a(x)) + 2 a(x)): the residual stream goes around b, but through a."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x):
        x = self.a(x)
        stream = 2 * x
        return self.c(self.b(x) + stream)


def test_walls_stand_where_everything_later_passes_through_them():
    standing, fallen = settle(["a", "b", "c"], record(Around(), torch.rand(2, 3)))
    assert [(wall.name, wall.weights) for wall in standing] == [
        (name, (f"{name}.bias", f"{name}.weight")) for name in "abc"
    ]
    assert not fallen
    standing, fallen = settle(["b", "c"], record(Around(), torch.rand(2, 3)))  # without a's, a is on both sides of b's
    assert [wall.name for wall in standing] == ["c"] and fallen == {"b": "a.bias"}
