"""A replica small enough for continuous integration: digits on colored noise, and networks with and without BatchNorm.

python -m experiments.attribution_evaluation.replica

trains the networks again and writes their weights (half a minute each). The digits come with scikit-learn.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.attribution_evaluation.images import Labelled
from pellucid import Classifier
from pellucid.classifiers import load_weights
from pellucid.data import Preprocess
from pellucid.storage import write_atomically

SIDE = 32
SEEDS = (0, 1)
WEIGHTS = Path(__file__).parent / "weights"
_WIDTHS = (16, 16, 32, 32, 64, 64)
_EPOCHS = 12
_IMAGES = 3000
_BATCH = 64


def digits_on_noise(count: int, seed: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32) in [0, 1] and labels (count,): a digit of random color and place on colored noise.

    Args:
        count: how many.
        seed: of everything random.
        held_out: take the digits of the last 597 of the 1797 images, else those of the first 1200.
    """
    from sklearn.datasets import load_digits

    digits, labels = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
    part = slice(1200, None) if held_out else slice(1200)
    digits, labels = digits[part].view(-1, 1, 8, 8).float() / 16, labels[part]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(digits), (count,), generator=generator)
    large = F.interpolate(digits[chosen], scale_factor=2, mode="bilinear", align_corners=False)
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator) * 0.5
    colors = 0.5 + 0.5 * torch.rand(count, 3, 1, 1, generator=generator)
    places = torch.randint(SIDE - 16 + 1, (count, 2), generator=generator).tolist()
    for image, digit, color, (top, left) in zip(images, large, colors, places, strict=True):
        window = image[:, top : top + 16, left : left + 16]
        window.copy_(window * (1 - digit) + color * digit)
    return images, labels[chosen]


def replica_network(*, batch_norm: bool) -> nn.Sequential:
    """Six 3 x 3 convolutions of 16 to 64 channels, three max poolings, and three fully connected layers."""
    features, width = nn.Sequential(), 3
    for index, channels in enumerate(_WIDTHS):
        features.append(nn.Conv2d(width, channels, 3, padding=1))
        if batch_norm:
            features.append(nn.BatchNorm2d(channels))
        features.append(nn.ReLU())
        if index % 2 and index < len(_WIDTHS) - 1:
            features.append(nn.MaxPool2d(2))
        width = channels
    head = nn.Sequential(nn.Linear(64 * 4 * 4, 32), nn.ReLU(), nn.Linear(32, 10))
    return nn.Sequential(features, nn.MaxPool2d(2), nn.Flatten(), head)


def load_replica(*, batch_norm: bool, seed: int = 0) -> Classifier:
    """A trained network as a classifier."""
    network = replica_network(batch_norm=batch_norm)
    load_weights(network, _file(batch_norm, seed))
    preprocess = Preprocess((SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    name = f"replica {'with' if batch_norm else 'without'} BatchNorm {seed}"
    return Classifier(network.eval(), preprocess=preprocess, class_names=[str(digit) for digit in range(10)], name=name)


def write_images(folder: Path, count: int, seed: int = 0) -> Labelled:
    """Write so many held-out images to a folder, and list them with their classes."""
    images, labels = digits_on_noise(count, 1000 + seed, held_out=True)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / f"{index:05d}.png"
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(path)
        parts.append((path, label))
    return parts


def train(*, batch_norm: bool, seed: int) -> nn.Sequential:
    """Train one network; a pair with the same seed sees the same images in the same order."""
    torch.manual_seed(seed)
    network = replica_network(batch_norm=batch_norm).train()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not batch_norm:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # with the default it learns nothing
    images, labels = digits_on_noise(_IMAGES, seed, held_out=False)
    optimizer = torch.optim.Adam(network.parameters())
    steps = _EPOCHS * (len(images) // _BATCH)
    rate = 4e-3 if batch_norm else 2e-3  # the highest with which it learns
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(_EPOCHS):
        for rows in _batches(len(images)):
            optimizer.zero_grad()
            F.cross_entropy(network(2 * images[rows] - 1), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _batches(count: int) -> Iterator[Tensor]:
    order = torch.randperm(count)
    return iter(order[: count // _BATCH * _BATCH].view(-1, _BATCH))


def _file(batch_norm: bool, seed: int) -> Path:
    return WEIGHTS / f"replica-{'with' if batch_norm else 'without'}-batchnorm-{seed}.safetensors"


def train_and_save(*, batch_norm: bool, seed: int) -> None:
    """Train one network, write its weights in half precision, and say how good it is."""
    network, file = train(batch_norm=batch_norm, seed=seed), _file(batch_norm, seed)
    images, labels = digits_on_noise(1000, 999, held_out=True)
    with torch.no_grad():
        confidence, guess = network(2 * images - 1).softmax(1).max(1)
    right = guess == labels
    sure = (right & (confidence >= 0.99)).float().mean()
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    write_atomically(file, save(state))
    print(f"{file.stem}: {right.float().mean():.3f} right, {sure:.3f} right and sure", flush=True)


def main() -> None:
    """Train all networks."""
    torch.set_num_threads(1)
    for seed in SEEDS:
        for batch_norm in (False, True):
            train_and_save(batch_norm=batch_norm, seed=seed)


if __name__ == "__main__":
    main()
