"""A classifier whose evidence is known, and an image of which it sees the middle."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

import pellucid as pl


class BrightLeft(nn.Module):
    """Two logits: how bright the image is on its left, and on its right half."""

    def __init__(self) -> None:
        super().__init__()
        self.keep = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        gray = self.keep(images).mean(1)
        return torch.stack([half.mean((1, 2)) for half in gray.chunk(2, dim=2)], dim=1)


def bright_left_classifier() -> pl.Classifier:
    """It sees the middle of an image, 8 x 8 pixels."""
    preprocess = pl.data.Preprocess((8, 8), resize=8)
    return pl.Classifier(BrightLeft().eval(), preprocess=preprocess, class_names=["left", "right"])


def write_wide_image(folder: Path) -> Path:
    """Twice as wide as high, white left of the middle: the center crop sees columns 20 to 60 of 80."""
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (0, 0, 40, 40))
    image.save(folder / "wide.png")
    return folder / "wide.png"
