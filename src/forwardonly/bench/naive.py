"""Forward-Forward as the usual public scripts implement it: a baseline for benchmarks, not a way to train.

Its inefficiencies are deliberate: images are prepared one by one on the host, the two streams are two passes through
each layer, a loss is read back after each step, and each layer runs a second time after its update to feed the next
one. Its equations are those of the `ff` rule with uniform negatives (Hinton 2022, arXiv 2212.13345), by default with
that rule's sharpness and label value. With the scripts' own (`sharpness=1, label=None, size="length"`, Adam at 0.03) it
learns far more slowly, which would not be a comparison of loops.
"""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn


class NaiveForwardForward:
    """Layers of ReLU units, each with its own Adam.

    Args:
        sizes: features of the input, then units of each layer.
        classes: number of classes.
        rate: learning rate.
        sharpness: inverse temperature of the loss; 1 in the scripts.
        label: value of the label code's "1" in images of unit size; None takes the largest value of the batch.
        size: divisor of images and activations: their root mean square or, as in the scripts, their length.
    """

    THRESHOLD = 2.0

    def __init__(
        self,
        sizes: list[int],
        classes: int,
        rate: float = 1e-3,
        sharpness: float = 10.0,
        label: float | None = 8.0,
        size: Literal["rms", "length"] = "rms",
    ):
        self.classes, self.sharpness, self.label, self.size = classes, sharpness, label, size
        self.layers = [nn.Linear(fan_in, fan_out) for fan_in, fan_out in itertools.pairwise(sizes)]
        for layer in self.layers:  # He initialisation, as here; PyTorch's own puts the goodness far below the threshold
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.optimisers = [torch.optim.Adam(layer.parameters(), lr=rate) for layer in self.layers]

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """One training step on uint8 images (B, ...). Returns the losses of the layers."""
        host = self.prepared(images)
        wrong = (labels + torch.randint(1, self.classes, labels.shape)) % self.classes
        positive, negative = self.labelled(host, labels), self.labelled(host, wrong)
        losses = []
        for layer, optimiser in zip(self.layers, self.optimisers, strict=True):
            good, bad = (torch.relu(layer(stream)).square().mean(1) for stream in (positive, negative))
            margins = torch.cat([self.THRESHOLD - good, bad - self.THRESHOLD])
            loss = nn.functional.softplus(margins, beta=self.sharpness).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            with torch.no_grad():
                positive, negative = (self.unit(torch.relu(layer(stream))) for stream in (positive, negative))
        return losses

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The class of each image, (B,), from one full pass per label."""
        host = self.prepared(images)
        totals = []
        for label in range(self.classes):
            stream, total = self.labelled(host, torch.full((len(host),), label)), torch.zeros(len(host))
            for layer in self.layers:
                activation = torch.relu(layer(stream))
                total += activation.square().mean(1)
                stream = self.unit(activation)
            totals.append(total)
        return torch.stack(totals, 1).argmax(1)

    def prepared(self, images: Tensor) -> Tensor:
        """Images as floats (B, D), converted one by one."""
        return torch.stack([image.flatten().float() / 255 for image in images])

    def labelled(self, host: Tensor, labels: Tensor) -> Tensor:
        """Copies of the images with the label code in their first pixels."""
        copies = host.clone() if self.label is None else self.unit(host)
        copies[:, : self.classes] = 0.0
        copies[range(len(copies)), labels] = host.max() if self.label is None else self.label
        return self.unit(copies) if self.label is None else copies

    def unit(self, stream: Tensor) -> Tensor:
        """Each example (B, D) divided by its size."""
        length = stream.norm(dim=1, keepdim=True) + 1e-4
        return stream / length * (stream.shape[1] ** 0.5 if self.size == "rms" else 1.0)
