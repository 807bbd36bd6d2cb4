"""Transformers with any number of leading tokens, and maps with their channels last."""

import torch
from tests.networks.parts import CLASSES, network
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """A transformer block: attention and a perceptron, each after a norm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        x = x + self.proj((attention @ value).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


@network("vit", tokens=1)
@network("vit_mean", tokens=0)
@network("vit_two_tokens", tokens=2)
@network("vit_five_tokens", tokens=5)
class VisionTransformer(nn.Module):
    """4 x 4 patches after `tokens` learned tokens; the first of them, or the mean of all patches, is classified."""

    def __init__(self, tokens: int, width: int = 12, depth: int = 3) -> None:
        super().__init__()
        self.tokens = tokens
        self.patch_embed = nn.Conv2d(3, width, 8, stride=8)
        self.leading = nn.Parameter(torch.randn(1, tokens, width))
        self.position = nn.Parameter(0.5 * torch.randn(1, tokens + 16, width))
        self.blocks = nn.Sequential(*(Block(width, 2) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (N, 16, width)
        x = torch.cat([self.leading.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.tokens else x.mean(1))


class ChannelsLastBlock(nn.Module):
    """As ConvNeXt and Swin inside: norm and perceptron on (N, h, w, C), with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.expand, self.reduce = (
            *(nn.LayerNorm(channels), nn.Linear(channels, 2 * channels)),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(F.gelu(self.expand(self.norm(x))))


@network("channels_last_blocks")
class ChannelsLastBlocks(nn.Module):
    """Blocks that hand on maps (N, h, w, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 4, stride=4)
        self.blocks = nn.Sequential(ChannelsLastBlock(20), ChannelsLastBlock(20))
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x).permute(0, 2, 3, 1))
        return self.head(self.norm(x).mean((1, 2)))
