"""Nothing in the current folder is run as code, except a factory that was asked for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPY = "from pathlib import Path\nPath('ran').touch()\n"
LIBRARIES = ("matplotlib", "numpy", "PIL", "torch", "torchvision", "timm", "scipy", "rich", "cyclopts", "random")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with an image, and with files that are named like libraries."""
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(SPY)
    (tmp_path / "net.py").write_text(
        "import matplotlib\nfrom torch import nn\nfrom pellucid import Classifier\n"
        "def make():\n    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()\n"
        "    return Classifier(network, input_size=8, name='my net')\n"
    )
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(tmp_path / "digit.png")
    return tmp_path


def run(here: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; sys.path.pop(0); from pellucid.cli import main; main()"  # as the installed command begins
    start = ["-m", "pellucid"] if words[0] == "-m" else ["-c", program]
    return subprocess.run(
        [sys.executable, *start, *[word for word in words if word != "-m"]],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_files_named_like_libraries_are_not_run(here: Path) -> None:
    done = run(here, "explain", "digit.png", "--model", "digit_cnn", "--methods", "GradCAM", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert list(here.glob("out/**/index.html"))
    assert not (here / "ran").exists()


def test_neither_are_they_by_python_m(here: Path) -> None:
    done = run(here, "-m", "layers", "--model", "digit_cnn")
    assert done.returncode == 0, done.stderr
    assert not (here / "ran").exists()


def test_a_factory_in_the_current_folder_is_found_after_all_that_is_installed(here: Path) -> None:
    done = run(here, "layers", "--model", "net:make")
    assert done.returncode == 0, done.stderr
    assert not (here / "ran").exists()
