"""Rules as plain loops have them, in float32: baselines for benchmarks, not a way to train."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forwardonly.bodies import tinycnn
from forwardonly.bodies.convolutional import scaled


class NaiveForwardForward:
    """Forward-Forward as the usual public scripts implement it: layers of ReLU units, each with its own Adam.

    Its inefficiencies are deliberate: images are prepared one by one on the host, the two streams are two passes
    through each layer, a loss is read back after each step, and each layer runs a second time after its update to feed
    the next one. Its equations are those of the `ff` rule with uniform negatives (Hinton 2022, arXiv 2212.13345), by
    default with that rule's sharpness and label value. With the scripts' own (`sharpness=1, label=None,
    size="length"`, Adam at 0.03) it learns far more slowly, which would not be a comparison of loops.

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
            loss = F.softplus(margins, beta=self.sharpness).mean()
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


class NaiveChannels:
    """Learnable channel-class assignment (arXiv 2606.09928) on TinyCNN, by PyTorch's own operations alone.

    Each block computes its maps once, is updated by an AdamW of its own with its gradient clipped to a norm of 1, and
    hands its normalised maps on. The equations are those of the rule `channel-learnable`, without its options for short
    runs.

    Args:
        channels: of the images.
        classes: number of classes.
        width: factor on the channels of TinyCNN.
        dropout: share of each block's outputs that is dropped.
        rate: learning rate.
    """

    MEAN, MAXIMUM, MINIMUM = 0.94, 0.06, -0.05
    SMOOTHING, ENTROPY = 0.1, 1e-2  # the orthogonality term's weight is 0 in the first epoch

    def __init__(
        self, channels: int, classes: int, width: float = 1.0, dropout: float = 0.1, rate: float = 0.02
    ) -> None:
        self.dropout = dropout
        sizes = [channels, *(scaled(fan_out, width) for fan_out, _, _ in tinycnn.PLAN)]
        self.pooled = [pool for _, _, pool in tinycnn.PLAN]
        self.convolutions = [
            nn.Conv2d(fan_in, fan_out, side, padding=side // 2, bias=False)
            for fan_in, fan_out, (_, side, _) in zip(sizes, sizes[1:], tinycnn.PLAN, strict=False)
        ]
        self.votes = [nn.Parameter(torch.full((fan_out, classes), 0.5)) for fan_out in sizes[1:]]
        self.temperatures = [nn.Parameter(torch.tensor(10.0).log()) for _ in self.votes]
        self.weights: Sequence[list[nn.Parameter]] = [
            [*convolution.parameters(), votes, temperature]
            for convolution, votes, temperature in zip(self.convolutions, self.votes, self.temperatures, strict=True)
        ]
        self.optimisers = [torch.optim.AdamW(weights, lr=rate) for weights in self.weights]

    def step(self, images: Tensor, labels: Tensor) -> list[float]:
        """One training step on uint8 images (B, C, H, W). Returns the losses of the blocks."""
        signal = images.float() / 255
        signal = F.layer_norm(signal, signal.shape[1:])
        losses = []
        for index, convolution in enumerate(self.convolutions):
            maps = convolution(F.avg_pool2d(signal, 2) if self.pooled[index] else signal)
            maps = F.dropout(torch.relu(maps), self.dropout)
            each = maps.flatten(2)
            score = self.MEAN * each.mean(2) + self.MAXIMUM * each.amax(2) + self.MINIMUM * each.amin(2)
            assignment = torch.softmax(self.votes[index] / self.temperatures[index].exp().clamp(0.1, 100), 1)
            entropy = -(assignment * assignment.clamp_min(1e-8).log()).sum(1).mean()
            error = F.cross_entropy(score @ assignment, labels, label_smoothing=self.SMOOTHING)
            loss = error + self.ENTROPY * entropy
            self.optimisers[index].zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.weights[index], 1.0)
            self.optimisers[index].step()
            losses.append(loss.item())
            signal = F.instance_norm(maps.detach())
        return losses
