"""Shapes in signatures are checked in this very test run, and are plain tensors where jaxtyping is not installed."""

import subprocess
import sys

import pytest
import torch

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
