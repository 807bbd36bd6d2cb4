"""Gaussian smoothing against an explicit convolution, scipy, and the leak that the paper's maps have."""

import math

import pytest
import torch
from torch import Tensor

from pellucid.attribution import smooth
from pellucid.attribution.smoothing import gaussian_weights
from pellucid.errors import PellucidError


def maps(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def slow_smooth(one: Tensor, kernel_size: int) -> Tensor:
    """One map (h, w), cell by cell; reflected at the borders as often as needed."""
    height, width = one.shape
    half = kernel_size // 2
    weight = [math.exp(-0.5 * (offset / (kernel_size / 4)) ** 2) for offset in range(-half, half + 1)]

    def inside(index: int, size: int) -> int:
        while not 0 <= index < size:
            index = 0 if size == 1 else -index if index < 0 else 2 * (size - 1) - index
        return index

    found = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            total = sum(
                weight[i] * weight[j] * float(one[inside(y + i - half, height), inside(x + j - half, width)])
                for i in range(kernel_size)
                for j in range(kernel_size)
            )
            found[y, x] = total / sum(weight) ** 2
    return found


@pytest.mark.parametrize(
    ("size", "kernel_size"), [((7, 5), 1), ((7, 5), 3), ((6, 6), 5), ((3, 4), 9), ((1, 4), 5), ((1, 1), 7)]
)
def test_smoothing_is_a_gaussian_convolution_with_reflected_borders(size: tuple[int, int], kernel_size: int) -> None:
    one = maps(*size)
    assert torch.allclose(smooth(one, kernel_size), slow_smooth(one, kernel_size), atol=1e-6)


@pytest.mark.parametrize("kernel_size", [9, 17, 33, 129])
def test_smoothing_is_scipys_mirrored_convolution(kernel_size: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    one = maps(40, 56).double()
    wanted = one.numpy()
    for axis in (0, 1):
        wanted = ndimage.correlate1d(wanted, gaussian_weights(kernel_size).numpy(), axis=axis, mode="mirror")
    assert torch.allclose(smooth(one, kernel_size), torch.from_numpy(wanted), atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 9, 129, 257])
def test_the_kernel_sums_to_one_with_a_quarter_of_its_size_as_deviation(kernel_size: int) -> None:
    weights = gaussian_weights(kernel_size)
    assert len(weights) == kernel_size
    assert float(weights.sum()) == pytest.approx(1.0)
    assert torch.equal(weights, weights.flip(0))
    if kernel_size > 1:
        ratio = float(weights[kernel_size // 2 + 1] / weights[kernel_size // 2])
        assert ratio == pytest.approx(math.exp(-8 / kernel_size**2))


def test_constant_maps_stay_constant_and_the_kernel_of_one_cell_changes_nothing() -> None:
    constant = torch.full((2, 3, 8, 5), -1.5)
    assert torch.allclose(smooth(constant, 33), constant, atol=1e-6)
    values = maps(2, 3, 8, 5)
    assert torch.equal(smooth(values, 1), values)


def test_smoothing_is_linear_signed_and_map_by_map() -> None:
    first, second = maps(2, 3, 9, 9), maps(5, 3, 9, 9)[:2]
    assert torch.allclose(smooth(2 * first - second, 5), 2 * smooth(first, 5) - smooth(second, 5), atol=1e-6)
    assert torch.allclose(smooth(first, 5)[1, 2], smooth(first[1, 2], 5), atol=1e-7)


@pytest.mark.parametrize(("kernel_size", "share"), [(9, 0.993), (33, 0.974), (129, 0.899)])
def test_the_leak_over_cell_borders_is_the_predicted_one(kernel_size: int, share: float) -> None:
    values = torch.zeros(1, 1, 448, 448, dtype=torch.float64)
    values[..., :224, :224] = 1.0
    blurred = smooth(values, kernel_size)
    found = float(blurred[..., :224, :224].sum() / blurred.sum())
    assert found == pytest.approx(share, abs=1e-3)
    # The paper's sigma is K / 4; the kernel is cut at two of them.
    assert found == pytest.approx((1 - 0.3614 * (kernel_size / 4) / 224) ** 2, abs=5e-4)


def test_maps_in_any_memory_order_smooth_alike() -> None:
    values = maps(2, 3, 8, 6)
    permuted = values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not permuted.is_contiguous()
    assert torch.allclose(smooth(permuted, 5), smooth(values, 5), atol=1e-7)
    assert smooth(values.half(), 5).dtype == torch.float16


@pytest.mark.parametrize("kernel_size", [0, -3, 4])
def test_even_and_empty_kernels_are_refused(kernel_size: int) -> None:
    with pytest.raises(PellucidError, match=f"odd number of cells, not {kernel_size}"):
        smooth(maps(4, 4), kernel_size)


def test_whole_numbers_are_refused_rather_than_rounded_to_nothing() -> None:
    with pytest.raises(PellucidError, match="floating-point"):
        smooth(torch.ones(4, 4, dtype=torch.long), 3)
