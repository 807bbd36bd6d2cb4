import pytest
import torch
from scipy.linalg import sqrtm

from pellucid.errors import PellucidError
from pellucid.surrogate.assess.realism import frechet_distance, measure_realism

RANDOM = torch.Generator().manual_seed(0)


def features(rows: int = 400, columns: int = 6) -> torch.Tensor:
    mixing = torch.randn(columns, columns, generator=RANDOM)
    return torch.randn(rows, columns, generator=RANDOM) @ mixing + torch.randn(columns, generator=RANDOM)


def test_the_distance_is_the_closed_form_with_scipys_matrix_root() -> None:
    one, other = features(), features(300)
    first, second = (torch.cov(each.T.double()) for each in (one, other))
    root = torch.from_numpy(sqrtm((first @ second).numpy()).real)
    means = (one.mean(0) - other.mean(0)).double().square().sum()
    expected = means + (first + second - 2 * root).trace()
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-5)


def test_a_shift_alone_counts_its_square_and_features_that_never_vary_do_no_harm() -> None:
    seen = torch.cat([features(), torch.zeros(400, 2)], 1)
    assert frechet_distance(seen + 3, seen) == pytest.approx(9 * 8, rel=1e-5)
    assert frechet_distance(seen, seen) == pytest.approx(0, abs=1e-6)


def test_a_perfect_reconstruction_is_closer_than_two_halves_of_the_images() -> None:
    seen = features()
    same, other = measure_realism(seen, seen), measure_realism(seen, -seen)
    assert same.cosine == pytest.approx(1)
    assert same.frechet < same.floor
    assert other.cosine == pytest.approx(-1)
    assert other.frechet > other.floor


def test_too_few_images_are_refused() -> None:
    with pytest.raises(PellucidError, match="3 images are too few"):
        measure_realism(features(3), features(3))
