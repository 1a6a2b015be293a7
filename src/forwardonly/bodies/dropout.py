"""Dropout with fast random numbers on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drops(module: nn.Module) -> bool:
    """Whether a module is dropout, of any kind, with a share above 0."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0


class Dropout(nn.Dropout):
    """Dropout that draws one random byte per feature on a CPU, so that its share is rounded to a multiple of 1/256.

    PyTorch draws a float per feature there, which on feature maps took a sixth of a training step. The remaining
    features are divided by the share that actually remains, which keeps the mean. On other devices it is PyTorch's own.
    """

    def forward(self, activation: Tensor) -> Tensor:
        least = round(256 * self.p)
        if not self.training or activation.device.type != "cpu" or not 0 < least < 256:
            return F.dropout(activation, self.p, self.training)
        draws = torch.empty((activation.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        drawn = draws.view(torch.uint8)[: activation.numel()]
        # Bytes are exact in every floating type, and arithmetic on them is far faster than a comparison.
        mask = drawn.to(activation.dtype).sub_(least - 1).clamp_(0, 1).mul_(256 / (256 - least))
        if activation.dim() == 4 and activation.is_contiguous(memory_format=torch.channels_last):
            batch, channels, height, width = activation.shape
            return activation * mask.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return activation * mask.view(activation.shape)
