"""The labelled images of the experiments, listed from a data folder."""

import csv
import json
import zipfile
from pathlib import Path

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Labelled = list[tuple[Path, int]]

_SUFFIXES = (".jpg", ".jpeg", ".png")


def imagenet_images(data: Path) -> Labelled:
    """Samples of every second ImageNet class, and twelve images of each class that has more, for the same-class pairs.

    These are zebras, pizzas and laptops, and of Office-31 the classes that are exactly one class of ImageNet.
    """
    samples = data / "imagenet_samples_256"
    with (samples / "labels.tsv").open(encoding="utf-8") as file:
        label_of = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file, delimiter="\t")}
    labeled = [(path, label_of[path.name.partition("_")[0]]) for path in _files(samples)[::2]]
    many = {data / "zebra": 340, data / "caltech101_subset" / "pizza": 963, data / "caltech101_subset" / "laptop": 620}
    office = data / "office31"
    for name, labels in json.loads((office / "imagenet_index.json").read_text(encoding="utf-8")).items():
        if len(labels) == 1:
            many[office / "amazon" / name] = labels[0]
    return labeled + [(path, label) for folder, label in many.items() for path in _files(folder)[:12]]


def cifar_images(data: Path, unpacked: Path) -> Labelled:
    """The 10,000 test images of CIFAR-10 as JPEG, unpacked into a folder once."""
    if not (unpacked / "test").is_dir():
        with zipfile.ZipFile(data / "cifar10" / "cifar10_test_jpeg.zip") as archive:
            archive.extractall(unpacked)
    folders = [(unpacked / "test" / name, label) for label, name in enumerate(CIFAR_CLASSES)]
    return [(path, label) for folder, label in folders for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
