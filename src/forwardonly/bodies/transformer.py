"""A small patch transformer. Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv 2010.11929.

A block is the patch embedding or one sublayer, attention or MLP, with its own residual connection inside: the smallest
part of a transformer that has a nonlinearity. Tokens are kept in the layout of maps (B, K, H, W), so that every rule
can read them; there is no class token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from forwardonly.bodies.layers import Body, Layer


class PatchEmbedding(nn.Module):
    """Patches to tokens with a learned position embedding: (B, c, H, W) -> (B, K, H/p, W/p)."""

    def __init__(self, shape: Sequence[int], channels: int, patch: int):
        super().__init__()
        self.project = nn.Conv2d(shape[0], channels, patch, patch)
        self.place = nn.Parameter(0.02 * torch.randn(channels, shape[1] // patch, shape[2] // patch))

    def forward(self, images: Tensor) -> Tensor:
        return self.project(images) + self.place


class Sublayer(nn.Module):
    """x + f(norm(x)) for the tokens x of a map."""

    def __init__(self, channels: int, inner: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.inner = inner

    def forward(self, maps: Tensor) -> Tensor:
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.inner(self.norm(tokens))
        return tokens.transpose(1, 2).reshape(maps.shape)


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, T, K)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        query, key, value = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, channels))


@dataclass(frozen=True, kw_only=True)
class Transformer(Body):
    """Patch embedding, then `depth` pairs of attention and MLP: 1 + 2 depth blocks."""

    depth: int = 4
    """Pairs of attention and MLP."""
    channels: int = 128
    """Channels of each token."""
    heads: int = 4
    """Attention heads, which must divide the channels."""
    patch: int = 4
    """Pixels a side of a patch, which must divide the image's sides."""

    def layers(self, shape: Sequence[int]) -> list[Layer]:
        if min(self.depth, self.channels, self.heads, self.patch) < 1 or self.channels % self.heads:
            raise ValueError(
                f"depth, channels, heads and patch must be at least 1 and heads divide channels, not {self.depth}, "
                f"{self.channels}, {self.heads} and {self.patch}."
            )
        if shape[1] % self.patch or shape[2] % self.patch:
            raise ValueError(f"patch must divide the image's sides, {shape[1]} x {shape[2]}; {self.patch} does not.")
        layers = [Layer(PatchEmbedding(shape, self.channels, self.patch))]
        for _ in range(self.depth):
            wide = nn.Linear(self.channels, 4 * self.channels)
            mlp = nn.Sequential(wide, nn.GELU(), nn.Linear(4 * self.channels, self.channels))
            layers.append(Layer(Sublayer(self.channels, Attention(self.channels, self.heads))))
            layers.append(Layer(Sublayer(self.channels, mlp)))
        return layers
