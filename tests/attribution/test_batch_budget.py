"""Bounds on memory: what is measured, what it bounds, and what is said when it is too little."""

import gc

import pytest
import torch
from tests.attribution.support import (
    BranchingNet,
    CountingView,
    classifier,
    images,
    lite0,
    plain_net,
    quick,
    relative_error,
    seeded,
)
from torch import Tensor, nn

import pellucid as pl
from pellucid.attribution import (
    METHODS,
    GradCAM,
    Gradient,
    GuidedBackprop,
    IntegratedGradients,
    Occlusion,
    ScoreCAM,
)
from pellucid.attribution.batch_budget import BatchBudget, peak_bytes
from pellucid.errors import PellucidError

FLOAT = 4


def test_the_peak_is_what_was_alive_together() -> None:
    def run() -> Tensor:
        first = torch.ones(1000)  # 1000 floats
        second = first + 1  # 2000
        del first  # 1000
        third = torch.cat([second, second])  # 3000
        del second  # 2000
        return third.view(2, 1000)[0] * 2  # 3000: a view takes nothing

    assert peak_bytes(run) == 3000 * FLOAT


def test_what_autograd_keeps_for_the_backward_pass_counts() -> None:
    weights = [torch.ones(100, 100) for _ in range(4)]
    x = torch.ones(50, 100)

    def forward() -> Tensor:
        value = x
        for weight in weights:
            value = (value @ weight).tanh()
        return value

    def there_and_back() -> None:
        leaf = x.clone().requires_grad_()
        value = leaf
        for weight in weights:
            value = (value @ weight).tanh()
        torch.autograd.grad(value.sum(), leaf)

    row = x.nelement() * FLOAT
    assert 2 * row <= peak_bytes(forward) <= 3 * row  # a product and its tanh; weights are not counted
    assert 5 * row <= peak_bytes(there_and_back) <= 9 * row  # the leaf and every tanh wait for the way back


def test_in_place_operations_take_nothing_more() -> None:
    def run() -> Tensor:
        value = torch.zeros(500)
        for _ in range(5):
            value = value.add_(1).relu_()
        return value

    assert peak_bytes(run) == 500 * FLOAT


@pytest.mark.parametrize("net", [plain_net, lambda: seeded(lambda: BranchingNet("in place"))])
@pytest.mark.parametrize("rows", [4, 9])
def test_the_memory_of_a_pass_is_that_of_a_row_times_the_rows(net: object, rows: int) -> None:
    view = classifier(net()).at("input")  # type: ignore[operator]
    activation = view.activation(images(rows)).as_subclass(Tensor)

    def peak(count: int) -> int:
        def run() -> None:
            leaf = activation[:count].clone().requires_grad_()
            torch.autograd.grad(view.logits(leaf).sum(), leaf)

        return peak_bytes(run)

    assert peak(rows) == pytest.approx(rows * peak(1), rel=0.02)


def test_rows_are_as_many_as_fit_and_never_more_than_the_batch() -> None:
    view, x = classifier(plain_net()).at("input"), images(1)
    free = BatchBudget(view, x, max_batch=16)
    assert free.rows("gradient") == 16
    assert free.passes == pl.attribution.Passes()
    row = {}
    for part in ("forward", "gradient"):
        with pytest.raises(PellucidError, match="max_bytes=1 is too small") as caught:
            BatchBudget(view, x, max_bytes=1).rows(part)  # type: ignore[arg-type]
        row[part] = int(str(caught.value).split("about ")[1].split(" bytes")[0])
        assert BatchBudget(view, x, max_bytes=row[part]).rows(part) == 1  # type: ignore[arg-type]
        assert BatchBudget(view, x, max_bytes=5 * row[part] + 1).rows(part) == 5  # type: ignore[arg-type]
        assert BatchBudget(view, x, max_bytes=100 * row[part], max_batch=16).rows(part) == 16  # type: ignore[arg-type]
    assert row["forward"] < row["gradient"]
    assert BatchBudget(view, x, max_bytes=10 * row["gradient"]).rows("forward", "gradient") == 10
    # The first convolution and its ReLU alone are held for the way back.
    assert row["gradient"] > 2 * 6 * 12 * 12 * FLOAT


@pytest.mark.parametrize(
    "method",
    [Gradient, GuidedBackprop, GradCAM, lambda **options: IntegratedGradients(steps=6, **options), Occlusion, ScoreCAM],
)
def test_a_budget_bounds_every_pass_and_changes_no_map(method: object) -> None:
    view, x = classifier(plain_net().double()).at("1"), images(5)
    wanted = method()(view, x, [0, 1])  # type: ignore[operator]
    budget = BatchBudget(view, x[:1], targets=2, max_bytes=1 << 40)
    budget.images(differentiate=True)
    limit = int(2.5 * (budget.row_bytes("gradient") + 2 * view.activation(x[:1]).nbytes))
    counting, peaks = CountingView(view), []

    class Measuring:
        def __getattr__(self, name: str) -> object:
            return getattr(counting, name)

        def logits(self, activation: Tensor, side_inputs: object = None) -> Tensor:
            found: list[Tensor] = []
            peaks.append(peak_bytes(lambda: found.append(counting.logits(activation, side_inputs))))
            return found[0]

    found = method(max_bytes=limit)(Measuring(), x, [0, 1])  # type: ignore[operator]
    assert relative_error(found.values, wanted.values) < 1e-6
    assert max(peaks) <= limit
    assert counting.counts == vars(found.passes)
    assert found.passes.prefix_forward == 5 + 1  # measuring is on the receipt
    if method in (Gradient, GradCAM):  # the gradients of both targets are held for every image
        assert counting.largest == 2


def test_too_small_a_budget_is_an_error_that_says_what_is_needed() -> None:
    view, x = classifier(plain_net()).at("1"), images(3)
    for method, target in ((Gradient(max_bytes=100), [0, 1]), (Occlusion(max_bytes=100), 0)):
        with pytest.raises(PellucidError, match=r"max_bytes=100 is too small: one image.* at layer '1'") as caught:
            method(view, x, target)
        needed = int(str(caught.value).split("about ")[1].split(" bytes")[0])
        enough = type(method)(max_bytes=needed)
        assert relative_error(enough(view, x, target).values, type(method)()(view, x, target).values) < 1e-5
        with pytest.raises(PellucidError, match="too small"):
            type(method)(max_bytes=needed - 1)(view, x, target)


def test_more_targets_need_more_memory() -> None:
    view, x = classifier(plain_net()).at("input"), images(4)
    one, many = BatchBudget(view, x[:1], max_bytes=1 << 40), BatchBudget(view, x[:1], targets=5, max_bytes=1 << 40)
    for budget in (one, many):
        budget.max_bytes = 10 * one.row_bytes("gradient")
    assert one.images(differentiate=True) > many.images(differentiate=True)
    assert one.images(differentiate=False) > one.images(differentiate=True)


def test_a_network_without_gradients_can_be_bounded_too() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().mean((2, 3))

    view = pl.Classifier(Detached().eval(), input_size=8).at("input")
    found = Occlusion(window=4, stride=4, max_bytes=100_000)(view, images(2, 8), 0)
    assert bool(found.values.any())


def test_nothing_is_left_behind() -> None:
    view, x = classifier(plain_net()).at("1"), images(2)

    def tensors_after_all_methods() -> int:
        for name in METHODS:
            quick(name)(view, x, [0, 1])
        gc.collect()
        return sum(issubclass(type(one), Tensor) for one in gc.get_objects())

    once = tensors_after_all_methods()
    assert tensors_after_all_methods() == once


def test_a_real_network_at_its_final_layer_needs_less_than_at_its_input() -> None:
    made, x = lite0()
    budgets = {layer: BatchBudget(made.at(layer), x, max_bytes=1 << 40) for layer in ("input", "final")}
    needed = {layer: budget.row_bytes("gradient") for layer, budget in budgets.items()}
    assert 50e6 < needed["input"] < 150e6
    assert needed["final"] < 1e6
