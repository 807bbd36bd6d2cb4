from itertools import product

import pytest
import torch
from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.evaluation.metrics import NoisyLinear, impute_linearly


def image(height: int = 7, width: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def holes(share: float, height: int = 7, width: int = 9, seed: int = 1) -> Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < share


def dense(image: Tensor, removed: Tensor) -> Tensor:
    """One equation for every pixel of the image, known or not, in one dense matrix."""
    height, width = removed.shape
    matrix, right = torch.eye(height * width).double(), image.double().flatten(1).T.clone()
    for y, x in removed.nonzero().tolist():
        row = y * width + x
        neighbors = [
            ((y + down) * width + x + across, 1 / 12 if down and across else 1 / 6)
            for down, across in product((-1, 0, 1), repeat=2)
            if (down, across) != (0, 0) and 0 <= y + down < height and 0 <= x + across < width
        ]
        whole = sum(weight for _, weight in neighbors)
        for place, weight in neighbors:
            matrix[row, place] = -weight / whole
        right[row] = 0
    return torch.linalg.solve(matrix, right).T.view_as(image)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [(7, 9), (1, 12), (6, 1), (2, 2)])
def test_imputed_pixels_solve_the_dense_system(size: tuple[int, int], share: float) -> None:
    x, removed = image(*size), holes(share, *size)
    removed[0, 0], removed[-1, -1] = True, False
    torch.testing.assert_close(impute_linearly(x, removed).double(), dense(x, removed), rtol=1e-5, atol=1e-5)


def test_a_single_pixel_is_the_weighted_mean_of_its_neighbors() -> None:
    x, removed = torch.tensor([[[1.0, 0, 0], [2, 99, 0], [0, 0, 4]]]), torch.zeros(3, 3, dtype=torch.bool)
    removed[1, 1] = True
    assert float(impute_linearly(x, removed)[0, 1, 1]) == pytest.approx(1 / 12 + 2 / 6 + 4 / 12)
    assert removed.sum() == 1


def test_a_corner_is_the_mean_of_the_neighbors_that_there_are() -> None:
    x, removed = torch.tensor([[[99.0, 6], [0, 3]]]), torch.tensor([[True, False], [False, False]])
    assert float(impute_linearly(x, removed)[0, 0, 0]) == pytest.approx((6 / 6 + 3 / 12) / (1 / 6 + 1 / 6 + 1 / 12))


def test_a_hole_in_a_slope_is_filled_with_the_slope() -> None:
    slope = (2.0 * torch.arange(20)[:, None] - 3.0 * torch.arange(24)).expand(2, 20, 24)
    removed = torch.zeros(20, 24, dtype=torch.bool)
    removed[4:15, 3:20] = True
    spoilt = torch.where(removed, 1e6, slope)  # what is missing is not read
    torch.testing.assert_close(impute_linearly(spoilt, removed), slope)


def test_known_pixels_stay_as_they_are() -> None:
    x, removed = image(), holes(0.6)
    found = NoisyLinear(noise=5.0)(x, removed[None])[0]
    assert torch.equal(found[:, ~removed], x[:, ~removed])
    assert not bool((found == x)[:, removed].any())
    assert torch.equal(impute_linearly(x, torch.zeros_like(removed)), x)


def test_without_any_known_pixel_the_mean_color_is_left() -> None:
    x = image()
    found = impute_linearly(x, torch.ones(7, 9, dtype=torch.bool))
    torch.testing.assert_close(found, x.mean((1, 2), keepdim=True).expand_as(x))


def test_noise_belongs_to_the_pixel_and_the_seed() -> None:
    x, removed = image(40, 50), torch.stack([holes(0.5, 40, 50), holes(0.9, 40, 50, seed=5)])
    plain, noisy = (NoisyLinear(noise=noise)(x, removed, seed=3) for noise in (0.0, 0.2))
    added = noisy - plain
    both = removed.all(0)
    torch.testing.assert_close(added[0][:, both], added[1][:, both])
    assert float(added[1][:, removed[1]].std()) == pytest.approx(0.2, rel=0.05)
    assert torch.equal(NoisyLinear(noise=0.2)(x, removed[:1], seed=3)[0], noisy[0])
    assert not torch.equal(NoisyLinear(noise=0.2)(x, removed, seed=4), noisy)
    assert torch.equal(plain[1], impute_linearly(x, removed[1]))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PellucidError, match=r"mask \(7, 8\)"):
        impute_linearly(image(), holes(0.5, 7, 8))
    with pytest.raises(PellucidError, match=r"torch\.float32"):
        impute_linearly(image(), torch.ones(7, 9))
    with pytest.raises(PellucidError, match="noise is -1"):
        NoisyLinear(noise=-1.0)
