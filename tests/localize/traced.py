"""Models whose blocks are called alone: signals of several tensors, lists, tuples, weights and buffers of their own."""

import torch
from torch import nn
from torch.nn import functional as F

import forwardonly as fo

from .models import Recurrent, maps, series


class Residual(nn.Module):
    """Two convolutions with batch norm and a shortcut; writes into its own maps."""

    def __init__(self, fan_in, fan_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.BatchNorm2d(fan_out)
        self.conv2, self.bn2 = nn.Conv2d(fan_out, fan_out, 3, 1, 1), nn.BatchNorm2d(fan_out)
        self.relu, self.shortcut = nn.ReLU(inplace=True), nn.Conv2d(fan_in, fan_out, 1, stride)

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1)
        self.stages = nn.ModuleList([nn.Sequential(Residual(8, 8, 1)), nn.Sequential(Residual(8, 12, 2))])
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


class ViT(nn.Module):
    """Attention over patches with a class token, a position that is a weight, and a scale that is a buffer."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 3, 3)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 5, 12))
        self.register_buffer("scale", torch.tensor(0.5))
        layers = [nn.TransformerEncoderLayer(12, 2, 24, 0.0, batch_first=True, norm_first=True) for _ in range(3)]
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) * self.scale
        x = x + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class UNet(nn.Module):
    """Skips around walls, so that signals hold several tensors."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.middle, self.norm = nn.Conv2d(8, 8, 3, 1, 1), nn.GroupNorm(2, 8)
        self.up2, self.up1 = nn.Conv2d(16, 4, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x):
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(one))
        up = F.relu(self.up2(torch.cat([F.relu(self.middle(self.norm(two))), two], 1)))
        return self.up1(torch.cat([F.interpolate(up, size=one.shape[2:]), one], 1))


class Branches(nn.Module):
    """Runs a branch of its last block before the block in front of it; lists go from block to block."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.side, self.three = (nn.Conv2d(fan, 4, 3, 1, 1) for fan in (1, 4, 4, 4))

    def forward(self, x):
        x = F.relu(self.one(x))
        side = self.side(x)
        return self.three(F.relu(self.two(x)) + side)


class Pairs(nn.Module):
    """Modules that take and give lists."""

    class Both(nn.Module):
        def __init__(self, fan_in):
            super().__init__()
            self.left, self.right = nn.Conv2d(fan_in, 4, 3, 1, 1), nn.Conv2d(fan_in, 4, 3, 1, 1)

        def forward(self, pair):
            pair[0] = F.relu(self.left(pair[0]))
            pair[1] = F.relu(self.right(pair[1]))
            return [pair[0], pair[1]]

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (self.Both(fan) for fan in (1, 4, 4))

    def forward(self, x):
        return self.three(self.two(self.one([x, -x])))


class LongMemory(Recurrent):
    """Series, time before batch; each layer gives a tuple."""

    def __init__(self):
        super().__init__(nn.LSTM)


class Texts(nn.Module):
    """Several inputs by name, one of which is the mask."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask=None):
        x = torch.relu(self.one(self.embedding(input_ids)))
        return {"last_hidden_state": torch.relu(self.two(x)) * attention_mask.unsqueeze(2)}


def tokens():
    mask = torch.ones(6, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    return {"input_ids": torch.arange(42).view(6, 7) % 20, "attention_mask": mask}


MODELS = {
    "resnet": (ResNet, maps),
    "vit": (ViT, maps),
    "unet": (UNet, maps),
    "branches": (Branches, maps),
    "lists": (Pairs, maps),
    "recurrent": (LongMemory, series),
    "texts": (Texts, tokens),
    "channels last": (lambda: UNet().to(memory_format=torch.channels_last), maps),
}


def localize(make, example, **options):
    torch.manual_seed(0)
    rule = options.pop("rule", fo.rules.Projection(classes=4))
    return fo.localize(make(), rule, example(), **options)


def emitted(make, example, **options):
    network = localize(make, example, **options)
    network.emit()
    assert not network.stays_because
    return network
