"""Published tiny networks that read a face's gender, age and expression, rebuilt from their description.

Weights: face-api.js (MIT), 8-bit with a scale and a least value for each tensor. The layouts are those that the
weights' names and shapes state: a small Xception, and blocks of depthwise separable convolutions that are added up.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.classifiers import SamePadding
from pellucid.errors import ModelError

EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
_SIDE = 112
_MEAN = (122.782, 117.001, 104.298)


class _Conv(nn.Module):
    """Convolution with bias under TensorFlow's "SAME" padding; full, or depthwise and then 1 x 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, separable: bool = True) -> None:
        super().__init__()
        self.pad = SamePadding(kernel) if stride == 2 and kernel > 1 else nn.Identity()
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise = (
            nn.Conv2d(inputs, inputs, kernel, stride, padding, groups=inputs, bias=False) if separable else None
        )
        self.full = nn.Conv2d(inputs, outputs, *((1,) if separable else (kernel, stride, padding)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        y: Tensor = self.full(x if self.depthwise is None else self.depthwise(x))
        return y


class _Added(nn.Module):
    """Four convolutions, the first at half resolution; each takes the rectified sum of all before it."""

    def __init__(self, inputs: int, outputs: int, *, first: bool) -> None:
        super().__init__()
        start = _Conv(inputs, outputs, stride=2, separable=not first)
        self.convolutions = nn.ModuleList([start, *(_Conv(outputs, outputs) for _ in range(3))])

    def forward(self, x: Tensor) -> Tensor:
        total = F.relu(self.convolutions[0](x))
        entering = total
        for convolution in list(self.convolutions)[1:]:
            total = total + convolution(entering)
            entering = F.relu(total)
        return entering


class ExpressionNetwork(nn.Module):
    """Prepared faces (N, 3, 112, 112) to logits (N, 7) of `EXPRESSIONS`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 256)
        self.blocks = nn.ModuleList(_Added(a, b, first=a == 3) for a, b in pairwise(widths))
        self.read = nn.Linear(256, len(EXPRESSIONS))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.read(x.mean((2, 3)))
        return logits


class _Reduction(nn.Module):
    """Two separable convolutions and a pool, beside a 1 x 1 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int, *, rectified: bool = True) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([_Conv(inputs, outputs), _Conv(outputs, outputs)])
        self.beside = _Conv(inputs, outputs, 1, 2, separable=False)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolutions[0](F.relu(x) if self.rectified else x)
        y = self.convolutions[1](F.relu(y))
        y = F.max_pool2d(F.pad(y, (0, 1, 0, 1), value=-torch.inf), 3, 2)  # "SAME" at even sizes
        beside: Tensor = self.beside(x)
        return y + beside


class _Main(nn.Module):
    """Three rectified separable convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_Conv(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution in self.convolutions:
            y = convolution(F.relu(y))
        return x + y


class GenderNetwork(nn.Module):
    """Prepared faces (N, 3, 112, 112) to age in years (N, 1) and logits of male and female (N, 2), side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = _Conv(3, 32, stride=2, separable=False)
        self.blocks = nn.Sequential(
            _Reduction(32, 64, rectified=False), _Reduction(64, 128), _Main(128), _Main(128), _Reduction(128, 256)
        )
        self.leave = _Conv(256, 512)
        self.age, self.gender = nn.Linear(512, 1), nn.Linear(512, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.leave(self.blocks(F.relu(self.enter(x))))).mean((2, 3))
        return torch.cat([self.age(x), self.gender(x)], dim=1)


def load_face_networks(folder: Path) -> tuple[GenderNetwork, ExpressionNetwork]:
    """Both networks with their published weights, frozen.

    Raises:
        ModelError: the files hold other weights.
    """
    gender, expression = GenderNetwork(), ExpressionNetwork()
    _fill(gender, folder / "age_gender_model")
    _fill(expression, folder / "face_expression_model")
    for network in (gender, expression):
        network.eval().requires_grad_(False)
    return gender, expression


def prepared(faces: Tensor) -> Tensor:
    """Tight face crops (N, 1 or 3, H, W) in [0, 1] as the networks take them, (N, 3, 112, 112)."""
    large = F.interpolate(faces.expand(-1, 3, -1, -1), (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return large - torch.tensor(_MEAN)[:, None, None] / 255


def _fill(network: nn.Module, stem: Path) -> None:
    """Copy weights in the order of the file, which is that of the modules."""
    tensors = _tensors(stem)
    expected = dict(network.named_parameters())
    if len(tensors) != len(expected):
        raise ModelError(f"{stem.name} holds {len(tensors)} tensors, {type(network).__name__} has {len(expected)}")
    with torch.no_grad():
        for (name, weight), (source, values) in zip(expected.items(), tensors, strict=True):
            if values.shape != weight.shape:
                raise ModelError(f"{source} has shape {tuple(values.shape)}, {name} has {tuple(weight.shape)}")
            weight.copy_(values)


def _tensors(stem: Path) -> list[tuple[str, Tensor]]:
    manifest = json.loads(Path(f"{stem}-weights_manifest.json").read_text(encoding="utf-8"))
    content, start, result = Path(f"{stem}.bin").read_bytes(), 0, []
    for entry in (entry for group in manifest for entry in group["weights"]):
        count, stored = int(np.prod(entry["shape"])), entry.get("quantization")
        kind = np.dtype(np.uint8 if stored else np.float32)
        values = np.frombuffer(content, kind, count, start).astype(np.float32).reshape(entry["shape"])
        start += count * kind.itemsize
        result.append((entry["name"], _placed(entry["name"], values, stored)))
    return result


def _placed(name: str, values: "np.ndarray[Any, Any]", stored: dict[str, Any] | None) -> Tensor:
    """A tensor with its scale, in PyTorch's order of axes."""
    tensor = torch.from_numpy(values * stored["scale"] + stored["min"] if stored else values.copy()).float()
    if "depthwise" in name:
        return tensor.permute(2, 3, 0, 1)
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.mT if tensor.ndim == 2 else tensor
