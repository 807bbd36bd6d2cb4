"""Networks where more than maps lives on across a layer: sizes, windows, sequences on another axis."""

from tests.networks.parts import CLASSES, Head, conv, network
from torch import Tensor, nn
from torch.nn import functional as F


@network("batch_size_across")
class BatchSizeAcross(nn.Module):
    """The number of images is read first and used last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 8, 2), conv(8, 8, 2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)).reshape(batch, -1))


@network("image_size_across")
class ImageSizeAcross(nn.Module):
    """Height, width and the whole shape of the images are used after later layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 3), conv(3, 8, 2), conv(8, 8)
        self.head = Head(8)

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
        self.embed, self.conv = nn.Conv2d(3, 8, 4, stride=4), conv(8, 8)
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
    """Attention that keeps its images on the second axis, as torch's own does, around a layer that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Conv2d(3, 8, 8, stride=8), conv(8, 8)
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).permute(2, 0, 1)  # (T, N, C)
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        around = self.conv(x.permute(1, 2, 0).reshape(-1, 8, 4, 4)).relu()
        x = x + around.flatten(2).permute(2, 0, 1)
        return self.head(x.mean(0))
