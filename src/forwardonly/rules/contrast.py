"""A local supervised contrastive term, which any one-pass rule can add to its own loss.

Khosla et al. 2020, "Supervised Contrastive Learning", arXiv 2004.11362, equation 2: examples of one class attract each
other on the unit sphere and repel the rest of the batch. Reconstruction: that it is taken of a block's activation
pooled to a 2 x 2 grid, without a projection head, so that it adds no weights.

Shapes: B batch, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of -1/|P| sum_{p in P} log softmax_{a != i}(z_i . z_a / T) at p; z has unit length.

    P are the other examples (B, D) with the anchor's label (B,). Anchors without any are left out; a batch without any
    pair gives 0.
    """
    unit = F.normalize(features.float(), dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    log_chance = F.log_softmax(similarity, dim=1).masked_fill(itself, 0.0)
    pairs = ((labels[:, None] == labels) & ~itself).float()
    partners = pairs.sum(1)
    per_anchor = -(pairs * log_chance).sum(1) / partners.clamp_min(1.0)
    return per_anchor.sum() / (partners > 0).sum().clamp_min(1)
