"""Shapes in signatures are checked in this very test run, and are plain tensors where jaxtyping is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pellucid as pl
from pellucid.attribution import Attribution
from pellucid.attribution.gradient import sum_channels

jaxtyping = pytest.importorskip("jaxtyping")
pytest.importorskip("beartype")


def test_a_wrong_shape_is_an_error_in_the_test_run() -> None:
    assert sum_channels(torch.zeros(1, 2, 3, 4, 5)).shape == (1, 2, 4, 5)
    with pytest.raises(jaxtyping.TypeCheckError, match="N T C h w"):
        sum_channels(torch.zeros(1, 2, 3, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        Attribution(torch.zeros(1, 2, 4, 5), delta=torch.zeros(1, 3))  # two targets, and three


def test_without_jaxtyping_signatures_hold_plain_tensors() -> None:
    code = (
        "import sys; sys.modules['jaxtyping'] = None\n"
        "from torch import Tensor\nfrom pellucid.attribution.gradient import sum_channels\n"
        "assert sum_channels.__annotations__['values'] is Tensor"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_result_whose_fields_have_shapes_is_saved_and_loaded(tmp_path: Path) -> None:
    view, images = pl.load("digit_cnn").at("final"), torch.rand(2, 1, 32, 32)
    explanation = pl.attribution.IntegratedGradients(steps=2)(view, images, ["3", "7"])
    explanation.save(tmp_path / "e")
    loaded = pl.results.load(tmp_path / "e")
    assert torch.equal(loaded.values, explanation.values)
    assert loaded.passes == explanation.passes
