"""Models that were not written for this library, of every kind that `localize` cuts, and inputs for them."""

import torch
from torch import nn
from torch.nn import functional as F

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


class UNet(nn.Module):
    """Skips from each stage down to the stage up of the same size."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.middle = nn.Conv2d(8, 8, 3, 1, 1)
        self.up2, self.up1 = nn.Conv2d(16, 4, 3, 1, 1), nn.Conv2d(8, 4, 3, 1, 1)

    def forward(self, x):
        one = F.relu(self.down1(x))
        two = F.relu(self.down2(one))
        up = F.relu(self.up2(torch.cat([F.relu(self.middle(two)), two], 1)))
        return self.up1(torch.cat([F.interpolate(up, scale_factor=2), one], 1))


class Drop(nn.Module):
    """Dropout of its own making, which follows `self.training`."""

    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


class Encoder(nn.Module):
    """Transformer layers over patches, with or without a class token; returns class scores."""

    def __init__(self, token=True, channels_last=True):
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 3, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 12)) if token else None
        self.position = nn.Parameter(torch.randn(1, 4 + token, 12))
        layer = [nn.TransformerEncoderLayer(12, 2, 24, 0.0, batch_first=True, norm_first=True) for _ in range(3)]
        self.layers = nn.ModuleList(layer)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


class Texts(nn.Module):
    """Token numbers through an embedding, with a mask, to a dict as Hugging Face models return."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask=None, scale=1.0):
        x = torch.relu(self.one(self.embedding(input_ids))) * scale
        return {"last_hidden_state": torch.relu(self.two(x)) * attention_mask.unsqueeze(2)}


class Recurrent(nn.Module):
    """Three recurrent layers over a series, time before batch, as PyTorch's default has it."""

    def __init__(self, kind=nn.GRU):
        super().__init__()
        self.first, self.second, self.third = kind(3, 8), kind(8, 8), kind(8, 8)

    def forward(self, x):
        x = x.permute(2, 0, 1)
        for layer in (self.first, self.second, self.third):
            x, _ = layer(x)
        return x


class Stacked(nn.Module):
    """Three recurrent layers in one module."""

    def __init__(self, kind, **options):
        super().__init__()
        self.layers = kind(3, 8, 3, batch_first=True, dropout=0.3, **options)

    def forward(self, x):
        return self.layers(x.transpose(1, 2))[0]


class Switching(nn.Module):
    """Control flow that depends on values."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = torch.relu(self.one(x))
        return torch.relu(self.two(x if x.sum() > 0 else -x))


class Graph(nn.Module):
    """Two graph convolutions: nodes (N, D) and their adjacency (N, N)."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 8)

    def forward(self, nodes, adjacency):
        return torch.relu(adjacency @ self.two(torch.relu(adjacency @ self.one(nodes))))


class Volumes(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv3d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv3d(4, 6, 3, 1, 1), nn.ReLU())


class NHWC(nn.Module):
    """Maps with their channels last between the layers, as Swin has them."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 2, 2)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.patches(x).permute(0, 2, 3, 1)
        return torch.relu(self.two(torch.relu(self.one(x))))


def series(count=6):
    return torch.randn(count, 3, 10, generator=torch.Generator().manual_seed(0))


def tokens(count=6):
    drawn = torch.randint(0, 20, (count, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(count, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    return {"input_ids": drawn, "attention_mask": mask}


def maps(side=6, count=6):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def graph():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.rand(6, 6, generator=generator)


MODELS = {
    "resnet": (ResNet, maps, 5, (8, 6, 6)),
    "unet": (UNet, maps, 5, (8, 3, 3)),
    "class token": (Encoder, maps, 4, (24,)),
    "tokens": (lambda: Encoder(token=False), maps, 4, (12, 4, 1)),
    "texts": (Texts, tokens, 2, (8,)),
    "recurrent": (Recurrent, series, 3, (8, 10, 1)),
    "long memory": (lambda: Recurrent(nn.LSTM), series, 3, (8, 10, 1)),
    "stacked": (lambda: Stacked(nn.LSTM), series, 3, (8, 10, 1)),
    "stacked both ways": (lambda: Stacked(nn.GRU, bidirectional=True), series, 3, (16, 10, 1)),
    "control flow": (Switching, lambda: torch.randn(6, 6), 2, (8,)),
    "graph": (Graph, graph, 2, (8,)),
    "series": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 5, 3), nn.ReLU()),
        series,
        2,
        (5, 6, 1),
    ),
    "volumes": (Volumes, lambda: torch.rand(6, 1, 3, 4, 5), 2, (6, 3, 20)),
    "channels last": (NHWC, maps, 3, (6, 3, 3)),
    "table": (
        lambda: nn.Sequential(nn.Linear(9, 8), Drop(), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()),
        lambda: torch.randn(6, 9),
        2,
        (8,),
    ),
}
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def localize(model=None, example=None, **options):
    torch.manual_seed(0)
    rule = options.pop("rule", fo.rules.Projection(classes=4))
    return fo.localize(model or ResNet(), rule, maps() if example is None else example, **options)
