"""Small networks in plain torch with the wirings of real ones, for every test that needs one.

`NETWORKS` maps names to factories. A factory always returns a network with the same weights, in eval mode, with
non-trivial batch-norm statistics, and leaves the global random state alone. Pictures have `input_shape(name)`;
networks in `FIXED_SIZE` take no other size, those in `UNTRACEABLE` cannot be traced with torch.fx.
"""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CLASSES", "FIXED_SIZE", "NETWORKS", "UNTRACEABLE", "input_shape", "pictures"]

Kind = TypeVar("Kind", bound=nn.Module)

CLASSES = 5
NETWORKS: dict[str, Callable[[], nn.Module]] = {}
FIXED_SIZE = {"flatten_head", "vit", "vit_mean", "vit_two_tokens", "vit_five_tokens", "sequence_first", "windows"}
UNTRACEABLE = {
    *("control_flow", "control_flow_in_place", "own_outputs", "loop", "remembers", "view_in_place"),
    *("asks_for_a_tensor", "augmented_assignment", "writes_by_index"),
}


def input_shape(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that the network is made for."""
    return (1, 32, 32) if name == "grey" else (3, 32, 32)


def pictures(name: str, count: int = 3, seed: int = 0) -> Tensor:
    """Random pictures (count, C, H, W): not square, unless the network insists on its own size."""
    channels, *size = input_shape(name)
    size = size if name in FIXED_SIZE else [40, 24]
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(100 + seed))


def network(name: str, **options: object) -> Callable[[type[Kind]], type[Kind]]:
    """Register a class of networks under a name; it may have several names with different options."""

    def register(make: type[Kind]) -> type[Kind]:
        NETWORKS[name] = partial(_seeded, make, options, seed=len(NETWORKS))
        return make

    return register


def _seeded(make: Callable[..., nn.Module], options: dict[str, object], *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make(**options).eval()
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.3)
                nn.init.uniform_(part.running_var, 0.5, 2.0)
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)
    return made


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


class _Head(nn.Sequential):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int, classes: int = CLASSES) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


# --- Plain stacks


@network("gap_linear")
class GapLinear(nn.Sequential):
    """Convolutions, global average pooling, a linear layer: affine after the last ReLU."""

    def __init__(self) -> None:
        super().__init__(_conv(3, 8, 2), nn.ReLU(), _conv(8, 12, 2), nn.ReLU(), *_Head(12))


@network("nested_sequential")
class NestedSequential(nn.Module):
    """Blocks in blocks, with batch norm, in-place ReLU, dropout and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(_conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            nn.Sequential(nn.Sequential(_conv(8, 12), nn.BatchNorm2d(12)), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        self.dropout = nn.Dropout()
        self.head = _Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 12, 8, 8)
        return self.head(self.dropout(x))


@network("flatten_head")
class FlattenHead(nn.Module):
    """As VGG: fully connected layers on the flattened map, by `x.view(x.size(0), -1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_conv(3, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(_conv(8, 8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.Linear(8 * 8 * 8, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


@network("one_logit", classes=1)
@network("grey", channels=1)
@network("functional_relu", activate=F.relu)
@network("gelu", activate=F.gelu)
class Functional(nn.Module):
    """Activation and pooling as functions, `torch.flatten` before the head."""

    def __init__(
        self, channels: int = 3, classes: int = CLASSES, activate: Callable[[Tensor], Tensor] = torch.relu
    ) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(channels, 8, 2), _conv(8, 12, 2)
        self.fc = nn.Linear(12, classes)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.activate(self.conv1(x))
        x = self.activate(self.conv2(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


@network("reused_relu")
class ReusedReLU(nn.Module):
    """One ReLU module for all layers, and a function of the same name as the module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 8, 2), _conv(8, 8), _conv(8, 8, 2)
        self.relu = nn.ReLU()
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.head(torch.relu(self.conv3(x)))


@network("weight_norm")
class WeightNorm(nn.Module):
    """Weights computed from others, as a parametrisation and, as older code does, by a hook before the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.utils.parametrizations.weight_norm(_conv(3, 8, 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.conv2 = nn.utils.weight_norm(_conv(8, 8, 2))
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv2(self.conv1(x).relu()).relu())


@network("hooked")
class Hooked(GapLinear):
    """A network whose user has put hooks on it: one scales an output, one keeps the last output it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}
        self[0].register_forward_hook(lambda module, inputs, output: 2 * output)
        self[2].register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seen["2"] = output


# --- In-place operations


@network("in_place_module", activate=nn.ReLU(inplace=True))
@network("in_place_functional", activate=partial(F.relu, inplace=True))
@network("in_place_by_keyword", activate=lambda x: F.relu(input=x, inplace=True))
@network("in_place_function", activate=torch.relu_)
@network("in_place_method", activate=lambda x: x.relu_())
@network("in_place_leaky", activate=partial(F.leaky_relu_, negative_slope=0.3))
class InPlace(nn.Module):
    """Activations whose results are thrown away: what counts is that they have changed the tensor."""

    def __init__(self, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 8, 2), _conv(8, 8), _conv(8, 8, 2)
        self.activate = copy.deepcopy(activate)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv1(x)
        self.activate(shortcut)
        x = self.conv2(shortcut)
        self.activate(x)
        return self.head(self.conv3(x + shortcut))


@network("augmented_assignment")
class AugmentedAssignment(nn.Module):
    """`out += shortcut` changes a tensor that another name holds too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 8, 2), _conv(8, 8), _conv(8, 8, 2)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        out = kept = self.conv2(x.relu())
        out += x
        return self.head(self.conv3(out.relu()) + F.avg_pool2d(kept, 2))


@network("preactivation")
class PreActivation(nn.Module):
    """Blocks that begin with an in-place ReLU, so that their shortcut is the rectified tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 2)
        self.relu = nn.ReLU(inplace=True)
        self.conv1, self.conv2 = _conv(8, 8), _conv(8, 8)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in (self.conv1, self.conv2):
            x = x + conv(self.relu(x))
        return self.head(x)


@network("writes_to_its_input")
class WritesToItsInput(nn.Module):
    """Normalises the pictures in place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = GapLinear()

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        return self.features(x.div_(0.25))


@network("view_in_place")
class ViewInPlace(nn.Module):
    """Writes to a view; a tracer that knows no memory is wrong here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(3, 8, 2), _conv(8, 8, 2)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x.flatten(2).relu_()
        return self.head(self.conv2(x))


@network("writes_by_index")
class WritesByIndex(nn.Module):
    """Sets a row of the map to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(3, 8, 2), _conv(8, 8, 2)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x[:, :, 0] = 0.0
        return self.head(self.conv2(x).relu())


# --- Branches


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut; one in-place ReLU used twice, `out += identity`."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = _conv(channels_out, channels_out), nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Conv2d(channels_in, channels_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


@network("residual")
class Residual(nn.Module):
    """As a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = _conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 12, 2), BasicBlock(12, 12, 1))
        self.layer3 = nn.Sequential(BasicBlock(12, 16, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 16, H / 4, W / 4)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DenseLayer(nn.Module):
    """New channels from all earlier ones."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(channels), nn.ReLU(inplace=True), _conv(channels, growth)

    def forward(self, earlier: list[Tensor]) -> Tensor:
        return self.conv(self.relu(self.norm(torch.cat(earlier, 1))))


class DenseBlock(nn.ModuleDict):
    """Layers that each see the outputs of all before."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__({f"layer{i}": DenseLayer(channels + i * growth, growth) for i in range(layers)})

    def forward(self, x: Tensor) -> Tensor:
        outputs = [x]
        for layer in self.values():
            outputs.append(layer(outputs))
        return torch.cat(outputs, 1)


@network("dense")
class Dense(nn.Module):
    """As a DenseNet, with the functional ReLU after the last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv", _conv(3, 8, 2))
        self.features.add_module("block1", DenseBlock(8, 2, 4))
        self.features.add_module("transition", nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2)))
        self.features.add_module("block2", DenseBlock(16, 2, 4))
        self.features.add_module("norm", nn.BatchNorm2d(24))
        self.classifier = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.features(x), inplace=True)
        out = torch.flatten(F.adaptive_avg_pool2d(out, (1, 1)), 1)
        return self.classifier(out)


class InceptionBlock(nn.Module):
    """Parallel branches, concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch1 = nn.Conv2d(channels, 4, 1)
        self.branch2 = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(inplace=True), _conv(4, 8))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(channels, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(branch(x)) for branch in (self.branch1, self.branch2, self.branch3)], 1)


@network("inception")
class Inception(nn.Module):
    """As GoogLeNet, rescaling of the pictures' channels included."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 8, 2), nn.ReLU(inplace=True))
        self.inception1, self.inception2 = InceptionBlock(8), InceptionBlock(16)
        self.pool, self.head = nn.MaxPool2d(2), _Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([(x[:, i] * (0.9 + 0.1 * i) - 0.05).unsqueeze(1) for i in range(3)], 1)
        x = self.inception1(self.stem(x))
        return self.head(self.inception2(self.pool(x)))


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


@network("squeeze_excite")
class SqueezeExcitation(nn.Sequential):
    """As an EfficientNet: depthwise convolutions, SiLU, gates."""

    def __init__(self) -> None:
        depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        super().__init__(
            *(_conv(3, 8, 2), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
            *(depthwise, nn.SiLU(inplace=True), SqueezeExcite(8), nn.Conv2d(8, 12, 1)),
            *_Head(12),
        )


@network("called_twice")
class CalledTwice(nn.Module):
    """One block, called twice with the same weights; the first output is added to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 2)
        self.block = nn.Sequential(_conv(8, 8), nn.ReLU())
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        first = self.block(self.stem(x))
        return self.head(self.block(first) + first)


# --- What else may cross a cut


@network("batch_size_across")
class BatchSizeAcross(nn.Module):
    """The number of pictures is read first and used last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = _conv(3, 8, 2), _conv(8, 8, 2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)).reshape(batch, -1))


@network("picture_size_across")
class PictureSizeAcross(nn.Module):
    """Height, width and the whole shape of the pictures are used after later layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 3), _conv(3, 8, 2), _conv(8, 8)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        shape, pixels = x.shape, x.size(0) * height * width
        x = self.conv1(x).reshape(pixels, 3).view(shape)
        x = F.interpolate(self.conv2(x), size=(height, width))
        return self.head(self.conv3(x).relu() / (height / width))


@network("windows")
class Windows(nn.Module):
    """As Swin: windows of the map (N x windows, h, w, C) live on while a layer works on the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Conv2d(3, 8, 4, stride=4), _conv(8, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (N, 8, 8, 8)
        windows = in_windows(x)
        windows = F.gelu(self.mix(windows + in_windows(self.conv(x))))
        return self.head(windows.view(x.shape[0], -1, 8).mean(1))


def in_windows(x: Tensor) -> Tensor:
    """(N, C, 8, 8) -> (4 N, 4, 4, C)."""
    batch, channels, height, width = x.shape
    x = x.view(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(-1, 4, 4, channels)


@network("sequence_first")
class SequenceFirst(nn.Module):
    """Attention that keeps its pictures on the second axis, as torch's own does, around a layer that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Conv2d(3, 8, 8, stride=8), _conv(8, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).permute(2, 0, 1)  # (T, N, C)
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        around = self.conv(x.permute(1, 2, 0).reshape(-1, 8, 4, 4)).relu()
        x = x + around.flatten(2).permute(2, 0, 1)
        return self.head(x.mean(0))


# --- Tokens and channels-last maps


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


# --- Arguments, outputs and names


@network("default_arguments")
class DefaultArguments(nn.Module):
    """A forward with more arguments than the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = nn.Sequential(_conv(3, 8, 2), nn.ReLU()), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None, *, flip: bool = False) -> Tensor:
        x = self.features(x.flip(3) if flip else x) * scale
        return self.fc(pooled(x if mask is None else x * mask, axes=(2, 3)))


def pooled(x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """Mean over some axes."""
    return x.mean(dim=axes)


class Pyramid(nn.Module):
    """Hands on several maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(3, 8, 2), _conv(8, 8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = F.relu(self.conv1(x))
        return {"fine": fine, "coarse": F.relu(self.conv2(fine))}


class Split(nn.Module):
    """Hands on two halves of the channels, and a number."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        first, second = x.chunk(2, dim=1)
        return first, second, 2


@network("structured_outputs")
class StructuredOutputs(nn.Module):
    """Submodules that return dictionaries and tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid, self.split, self.mix, self.head = Pyramid(), Split(), _conv(4, 8), _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pyramid(x)
        first, second, factor = self.split(maps["coarse"])
        return self.head(self.mix(first * factor - second) + F.avg_pool2d(maps["fine"], 2))


@network("names_of_aliases")
class NamesOfAliases(nn.Module):
    """Submodules that are called like pellucid's aliases."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.middle, self.final = _conv(3, 8, 2), _conv(8, 8, 2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.middle(self.input(x).relu()).relu().mean((2, 3)))


# --- Networks that cannot be traced


@network("control_flow")
class ControlFlow(nn.Module):
    """What is computed depends on the data; shortcuts by addition and concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 8, 2), nn.ReLU(inplace=True))
        self.block, self.rare = BasicBlock(8, 8, 1), _conv(8, 8)
        self.merge, self.head = _conv(16, 8, 2), _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.block(x)
        if bool(x.max() > 1e6):
            out = self.rare(out)
        return self.head(self.merge(torch.cat([out, x], 1)).relu())


@network("control_flow_in_place")
class ControlFlowInPlace(nn.Module):
    """In-place ReLU modules whose results are thrown away, after pictures that are normalised in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 8, 2), _conv(8, 8), _conv(8, 8, 2)
        self.relu = nn.ReLU(inplace=True)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        if not bool(x.isfinite().all()):
            x = x.nan_to_num()
        shortcut = self.conv1(x)
        self.relu(shortcut)
        x = self.conv2(shortcut)
        self.relu(x)
        return self.head(self.conv3(x + shortcut))


@network("loop")
class Loop(nn.Module):
    """A block called as often as the data say (twice)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = _conv(3, 8, 2), nn.Sequential(_conv(8, 8), nn.Tanh()), _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2 + int(x.max() > 1e6)):
            x = x + self.block(x)
        return self.head(x)


class Gate(nn.Module):
    """Remembers a gate that it does not return."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(8, 8)
        self.gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.gate = x.mean((2, 3), keepdim=True).sigmoid()
        return F.relu(self.conv(x))


@network("remembers")
class Remembers(nn.Module):
    """A submodule's memory is a path around its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.block = nn.Sequential(_conv(3, 8, 2), nn.ReLU()), Gate(), _conv(8, 8)
        self.head = _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.stem(x))
        assert self.gate.gate is not None
        return self.head(self.block(x) * (self.gate.gate if bool(x.max() < 1e6) else 1.0))


class Maps:
    """An object of the user's own that holds tensors."""

    def __init__(self, fine: Tensor, coarse: Tensor) -> None:
        self.fine, self.coarse = fine, coarse


class Encoder(nn.Module):
    """Returns an object of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(3, 8, 2), _conv(8, 8, 2)

    def forward(self, x: Tensor) -> Maps:
        fine = F.relu(self.conv1(x))
        return Maps(fine, F.relu(self.conv2(fine)))


@network("own_outputs")
class OwnOutputs(nn.Module):
    """A submodule returns an object that nobody else knows how to split by pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mix, self.head = Encoder(), _conv(8, 8), _Head(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x)
        scale = 1.0 if bool(maps.fine.max() < 1e6) else 0.5
        return self.head(F.relu(self.mix(maps.coarse)) * scale + F.avg_pool2d(maps.fine, 2))


@network("asks_for_a_tensor")
class AsksForATensor(nn.Module):
    """Takes a tensor or a list; what a tracer passes is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = _conv(3, 8, 2), _conv(8, 8), _Head(8)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        maps = [x] if isinstance(x, Tensor) else x
        return self.head(self.conv2(torch.cat([F.relu(self.conv1(maps[0]))], 1)))
