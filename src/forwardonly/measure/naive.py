"""Forward-Forward as the usual public scripts run it, for the peers' comparison: a reference arm, not a way to train.

What makes it slow is kept on purpose: images are prepared one by one on the host, the two streams are two passes
through each layer, a loss is read back after each step, and each layer runs a second time after its update to feed the
next one. Its equations are those of Hinton 2022, arXiv 2212.13345, its defaults those of such scripts: inputs divided
by their length, threshold 2, Adam at 0.03.
"""

import itertools

import torch
from torch import Tensor, nn


class NaiveForwardForward:
    """Layers of ReLU units with an Adam each.

    Args:
        sizes: features of the input and units of each layer.
        classes: how many labels there are.
        rate: learning rate.
    """

    def __init__(self, sizes: list[int], classes: int, rate: float = 0.03):
        self.classes = classes
        self.layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(sizes)]
        self.optimisers = [torch.optim.Adam(layer.parameters(), lr=rate) for layer in self.layers]

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """One training step on uint8 images (B, ...); the losses of the layers."""
        host = torch.stack([image.flatten().float() / 255 for image in images])
        wrong = (labels + torch.randint(1, self.classes, labels.shape)) % self.classes
        positive, negative = self.labelled(host, labels), self.labelled(host, wrong)
        losses = []
        for layer, optimiser in zip(self.layers, self.optimisers, strict=True):
            good, bad = (run(layer, stream).square().mean(1) for stream in (positive, negative))
            loss = nn.functional.softplus(torch.cat([2 - good, bad - 2])).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            with torch.no_grad():
                positive, negative = run(layer, positive), run(layer, negative)
        return losses

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The class of each image (B,): a full pass a label."""
        host = torch.stack([image.flatten().float() / 255 for image in images])
        totals = []
        for label in range(self.classes):
            stream, total = self.labelled(host, torch.full((len(host),), label)), torch.zeros(len(host))
            for layer in self.layers:
                stream = run(layer, stream)
                total += stream.square().mean(1)
            totals.append(total)
        return torch.stack(totals, 1).argmax(1)

    def labelled(self, host: Tensor, labels: Tensor) -> Tensor:
        """Copies of the images with the label's code in their first pixels."""
        copies = host.clone()
        copies[:, : self.classes] = 0.0
        copies[range(len(copies)), labels] = host.max()
        return copies


def run(layer: nn.Module, stream: Tensor) -> Tensor:
    """A layer's activation of a stream (B, D), each example divided by its length first."""
    return torch.relu(layer(stream / (stream.norm(dim=1, keepdim=True) + 1e-4)))
