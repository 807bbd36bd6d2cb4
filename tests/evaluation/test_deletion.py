import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution import smooth
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation.metrics import Deletion, Insertion, NoisyLinear, baseline_images, impute_linearly

WEIGHTS = torch.linspace(-1, 1, 3 * 6 * 8, dtype=torch.float64).view(3, 6, 8)


def logits(images: Tensor) -> Tensor:
    """A linear classifier of two classes: (B, 3, 6, 8) -> (B, 2)."""
    first = (images.double() * WEIGHTS).sum((1, 2, 3))
    return torch.stack([first, -first], dim=1)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 6, 8, generator=torch.Generator().manual_seed(1))


def contributions(x: Tensor) -> Tensor:
    return (x * WEIGHTS).sum(1, keepdim=True)


def slow_curve(image: Tensor, values: Tensor, target: int, fill: Tensor, steps: int, inserting: bool) -> list[float]:
    """Pixel after pixel, as in the paper."""
    order = values.flatten().argsort(descending=True).tolist()
    current = (fill if inserting else image).clone()
    found = [float(logits(current[None]).softmax(1)[0, target])]
    for step in range(steps):
        for pixel in order[round(48 * step / steps) : round(48 * (step + 1) / steps)]:
            y, x = divmod(pixel, 8)
            current[:, y, x] = (image if inserting else fill)[:, y, x]
        found.append(float(logits(current[None]).softmax(1)[0, target]))
    return found


@pytest.mark.parametrize("game", [Deletion, Insertion])
@pytest.mark.parametrize(("steps", "max_batch"), [(7, 5), (48, 16), (1, 1)])
def test_curves_are_those_of_replacing_pixel_by_pixel(game: type[Deletion], steps: int, max_batch: int) -> None:
    x = images()
    values = torch.randn(2, 1, 6, 8)
    found = game(baseline="zero", steps=steps, max_batch=max_batch).curves(logits, x, values, torch.tensor([0, 1]))
    for index, target in enumerate((0, 1)):
        zero = torch.zeros_like(x[index])
        wanted = slow_curve(x[index], values[index], target, zero, steps, game.inserting)
        assert found.scores[index].tolist() == pytest.approx(wanted, abs=1e-7)


def test_the_area_is_that_of_trapezoids() -> None:
    found = Deletion(steps=4).curves(logits, images(), torch.randn(2, 6, 8), torch.tensor([0, 0]))
    curve = found.scores
    wanted = (curve[:, 0] / 2 + curve[:, 1:-1].sum(1) + curve[:, -1] / 2) / 4
    torch.testing.assert_close(found.area, wanted, rtol=1e-6, atol=0)


def test_every_order_begins_and_ends_with_the_same_images() -> None:
    x = images()
    found = Insertion(baseline="mean", score="logit").curves(logits, x, torch.randn(2, 3, 4), torch.tensor([0, 1]))
    start, end = logits(baseline_images(x, "mean")), logits(x)
    for curve in (found.scores, found.random):
        torch.testing.assert_close(curve[:, 0], start[[0, 1], [0, 1]])
        torch.testing.assert_close(curve[:, -1], end[[0, 1], [0, 1]])


@pytest.mark.parametrize("game", [Deletion, Insertion])
def test_the_true_contributions_beat_random_order_and_their_negative_loses(game: type[Deletion]) -> None:
    x = images(4)
    run = game(baseline="zero", score="logit", steps=24, random_orders=4)
    targets = torch.zeros(4, dtype=torch.long)
    good, bad = (run.curves(logits, x, sign * contributions(x), targets) for sign in (1, -1))
    assert (good.gain > 0).all()
    assert (bad.gain < 0).all()
    torch.testing.assert_close(good.random, bad.random)


def test_the_right_order_is_the_best_there_is() -> None:
    x = images(1)
    run = Deletion(baseline="zero", score="logit", steps=48, random_orders=1)
    best = run.curves(logits, x, contributions(x), torch.tensor([0])).area
    others = [run.curves(logits, x, torch.randn(1, 6, 8), torch.tensor([0])).area for _ in range(20)]
    assert float(best) < float(min(others))


def test_the_ratio_is_one_for_a_map_that_is_noise() -> None:
    x = images(1).expand(40, -1, -1, -1)
    found = Deletion(baseline="zero", random_orders=20).curves(logits, x, torch.randn(40, 6, 8), torch.zeros(40).long())
    assert float(found.ratio.mean()) == pytest.approx(1, abs=0.1)


def test_a_flat_map_is_ordered_at_random() -> None:
    x = images(1).expand(60, -1, -1, -1)
    run = Deletion(baseline="zero", score="logit", random_orders=10)
    found = run.curves(logits, x, torch.zeros(60, 6, 8), torch.zeros(60).long())
    spread = float(found.area.std()) / 60**0.5
    assert spread > 0
    assert abs(float(found.gain.mean())) < 4 * spread


def test_a_small_map_is_brought_to_the_image() -> None:
    x, values = images(), torch.randn(2, 1, 3, 4)
    large = F.interpolate(values.double(), size=(6, 8), mode="bilinear", align_corners=False)
    run, targets = Deletion(baseline="zero"), torch.tensor([0, 1])
    torch.testing.assert_close(
        run.curves(logits, x, values, targets).scores, run.curves(logits, x, large, targets).scores
    )


def test_an_image_has_the_same_curves_in_any_batch() -> None:
    x, values = images(3), torch.zeros(3, 6, 8)  # ties everywhere: all order is the seed's
    whole = Deletion(seed=2, max_batch=7).curves(logits, x, values, torch.tensor([0, 1, 0]))
    last = Deletion(seed=4, max_batch=1).curves(logits, x[2:], values[2:], torch.tensor([0]))
    torch.testing.assert_close(whole.scores[2:], last.scores)
    torch.testing.assert_close(whole.random[2:], last.random)


def test_maps_that_are_not_finite_are_nan_and_cost_nothing() -> None:
    values = torch.randn(2, 1, 6, 8)
    values[0, 0, 0, 0] = torch.nan
    rows = []

    def counted(batch: Tensor) -> Tensor:
        rows.append(len(batch))
        return logits(batch)

    found = Deletion(steps=10, random_orders=2).curves(counted, images(), values, torch.tensor([0, 1]))
    assert found.area.isnan().tolist() == found.ratio.isnan().tolist() == [True, False]
    assert sum(rows) == 2 + 3 * 9  # both ends once, the nine steps between for three orders


def test_random_orders_that_are_known_are_not_run_again() -> None:
    rows: list[int] = []

    def counted(batch: Tensor) -> Tensor:
        rows.append(len(batch))
        return logits(batch)

    metric, x, values, targets = Deletion(steps=10, seed=3), images(), torch.randn(2, 6, 8), torch.tensor([0, 1])
    fresh = metric.curves(counted, x, values, targets)
    known = metric.curves(counted, x, torch.randn(2, 6, 8), targets).random
    known[1] = torch.nan
    rows.clear()
    again = metric.curves(counted, x, values, targets, random=known)
    assert sum(rows) == 2 + 9 + 2 + 3 * 9
    torch.testing.assert_close(again.scores, fresh.scores)
    torch.testing.assert_close(again.random, fresh.random)


def test_baselines_are_what_they_say() -> None:
    x = images()
    assert float(baseline_images(x, "zero").abs().max()) == 0
    torch.testing.assert_close(baseline_images(x, "mean")[1, 2], x[1, 2].mean().expand(6, 8))
    large = torch.randn(1, 3, 32, 40)
    torch.testing.assert_close(baseline_images(large, "blur"), smooth(large, 9))
    torch.testing.assert_close(baseline_images(x, x[:1]), x[:1].expand(2, -1, -1, -1))
    found = Deletion(baseline=x[:1]).curves(logits, x, torch.randn(2, 6, 8), torch.tensor([0, 0]))
    assert found.baseline == "given images"
    assert found.scores[0].std() < 1e-9  # the image is its own baseline


@pytest.mark.parametrize("game", [Deletion, Insertion])
def test_missing_pixels_can_be_imputed_from_those_that_are_left(game: type[Deletion]) -> None:
    x, values = images(), torch.randn(2, 6, 8)
    run = game(baseline=NoisyLinear(noise=0.0), score="logit", steps=6, random_orders=1, max_batch=4)
    found = run.curves(logits, x, values, torch.tensor([0, 1]))
    for index, target in enumerate((0, 1)):
        highest_first = values[index].flatten().argsort(descending=True)
        for step, score in enumerate(found.scores[index].tolist()):
            replaced = torch.zeros(48, dtype=torch.bool)
            replaced[highest_first[: 8 * step]] = True
            removed = (~replaced if game.inserting else replaced).view(6, 8)
            wanted = float(logits(impute_linearly(x[index], removed)[None])[0, target])
            assert score == pytest.approx(wanted, abs=1e-6)
    assert found.baseline == "NoisyLinear(noise=0.0)"


def test_imputation_leaves_nothing_to_gain_in_a_flat_image() -> None:
    flat = torch.full((1, 3, 6, 8), 0.7)
    mask = torch.zeros(1, 6, 8)
    mask[:, 2:4, 2:5] = 1
    imputed = Deletion(baseline=NoisyLinear(noise=0.0), score="logit").curves(logits, flat, mask, torch.tensor([0]))
    torch.testing.assert_close(imputed.scores, imputed.scores[:, :1].expand(-1, 21), rtol=0, atol=1e-5)


def test_the_noise_of_imputation_is_the_seed_s() -> None:
    x, targets = images(), torch.tensor([0, 1])
    curves = [
        Deletion(baseline=NoisyLinear(noise=0.3), seed=seed, max_batch=batch).curves(
            logits, x, contributions(x), targets
        )
        for seed, batch in ((1, 16), (1, 3), (2, 16))
    ]
    torch.testing.assert_close(curves[0].scores, curves[1].scores)
    assert not torch.allclose(curves[0].scores[:, 1:-1], curves[2].scores[:, 1:-1])


def test_insertion_read_from_its_end_deletes_the_least_relevant_first() -> None:
    x, values = images(), torch.randn(2, 6, 8)
    found = Insertion(baseline="zero", steps=48).curves(logits, x, values, torch.tensor([0, 1])).scores.flip(1)
    for index, target in enumerate((0, 1)):
        wanted = slow_curve(x[index], -values[index], target, torch.zeros_like(x[index]), 48, inserting=False)
        assert found[index].tolist() == pytest.approx(wanted, abs=1e-7)


def test_gradients_are_not_recorded() -> None:
    recorded = []

    def watched(batch: Tensor) -> Tensor:
        recorded.append(torch.is_grad_enabled() or batch.requires_grad)
        return logits(batch)

    x = images().requires_grad_()
    found = Deletion(steps=3).curves(watched, x, torch.randn(2, 6, 8), torch.tensor([0, 1]))
    assert recorded
    assert not any(recorded)
    assert not found.scores.requires_grad


def test_inputs_that_do_not_fit_are_refused() -> None:
    x, targets = images(), torch.tensor([0, 1])
    with pytest.raises(PellucidError, match="one map and one target per image"):
        Deletion().curves(logits, x, torch.ones(1, 6, 8), targets)
    with pytest.raises(PellucidError, match="no baseline 'noise'"):
        Deletion(baseline="noise").curves(logits, x, torch.ones(2, 6, 8), targets)  # type: ignore[arg-type]
    with pytest.raises(PellucidError, match="does not fit"):
        Deletion(baseline=torch.zeros(1, 3, 4, 4)).curves(logits, x, torch.ones(2, 6, 8), targets)
    with pytest.raises(PellucidError, match="steps=0"):
        Insertion(steps=0)
    with pytest.raises(PellucidError, match="score='loss'"):
        Insertion(score="loss")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, -1]), "class -1 does not exist; leave out images without a label"),
        (torch.tensor([0, 9]), "class 9 does not exist: there are classes 0 to 3"),
        (torch.tensor([True, False]), r"targets are \(2,\) torch.bool; expected \(N,\) class indices"),
        (torch.tensor([0.0, 1.0]), "torch.float32; expected"),
        (torch.eye(4, dtype=torch.long)[:2], r"targets are \(2, 4\)"),
    ],
)
@pytest.mark.parametrize("metric", [Deletion(steps=2), Insertion(steps=2)])
def test_what_indexes_no_class_is_refused(metric: Deletion, targets: torch.Tensor, message: str) -> None:
    images, values = torch.rand(2, 4, 8, 8), torch.rand(2, 8, 8)
    with pytest.raises(TargetError, match=message):
        metric.curves(lambda batch: batch.mean((2, 3)), images, values, targets)
    with pytest.raises(PellucidError, match="maps are a ndarray; expected a tensor"):
        metric.curves(lambda batch: batch.mean((2, 3)), images, values.numpy(), torch.tensor([0, 1]))  # type: ignore[arg-type]
