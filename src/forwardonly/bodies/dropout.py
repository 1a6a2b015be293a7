"""Dropout whose random numbers cost little on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drops(module: nn.Module) -> bool:
    """Whether a module is dropout of any kind that drops something."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0


class Dropout(nn.Dropout):
    """Dropout that decides by one random byte a feature on a CPU, so that the share is rounded to a multiple of 1/256.

    PyTorch draws a float for each feature there, which on feature maps took a sixth of a training step. What is left
    is divided by the share that really stays, so that the mean is kept. Elsewhere it is PyTorch's own.
    """

    def forward(self, activation: Tensor) -> Tensor:
        least = round(256 * self.p)
        if not self.training or activation.device.type != "cpu" or not 0 < least < 256:
            return F.dropout(activation, self.p, self.training)
        draws = torch.empty((activation.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        drawn = draws.view(torch.uint8)[: activation.numel()]
        # Bytes are whole numbers in every floating type, and arithmetic on them is far quicker than a comparison.
        mask = drawn.to(activation.dtype).sub_(least - 1).clamp_(0, 1).mul_(256 / (256 - least))
        if activation.dim() == 4 and activation.is_contiguous(memory_format=torch.channels_last):
            batch, channels, height, width = activation.shape
            return activation * mask.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return activation * mask.view(activation.shape)
