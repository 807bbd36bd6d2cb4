"""Targets: what is looked up, what is computed from the logits, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pellucid as pl
from pellucid.attribution.targets import (
    Target,
    count_targets,
    resolve_target,
    select_targets,
)
from pellucid.errors import TargetError

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.5, -1.0, 4.0]])


class Names:
    """What a target needs to know of a classifier with three classes."""

    class_names = ("ant", "bee", "cat")

    def class_index(self, target: int | str) -> int:
        if isinstance(target, str):
            return self.class_names.index(target)
        if not 0 <= target < 3:
            raise TargetError(f"class {target} does not exist")
        return target


def scores(target: object, logits: Tensor = LOGITS) -> Tensor:
    return resolve_target(target, Names(), logits).scores(logits)


@pytest.mark.parametrize("one", [1, "bee", np.int64(1), torch.tensor(1), [1], ["bee"], Target("bee")])
def test_a_class_is_given_by_index_or_name(one: object) -> None:
    found = resolve_target(one, Names(), LOGITS)
    assert found.labels == (("bee",), ("bee",))
    assert torch.equal(found.scores(LOGITS), torch.tensor([[3.0], [-1.0]]))


def test_no_target_is_the_predicted_class_of_each_image() -> None:
    found = resolve_target(None, Names(), LOGITS)
    assert found.labels == (("bee",), ("cat",))
    assert torch.equal(found.scores(LOGITS), torch.tensor([[3.0], [4.0]]))


def test_a_list_is_explained_for_every_image_with_its_order_and_duplicates() -> None:
    found = scores(["cat", 0, "cat"])
    assert torch.equal(found, torch.tensor([[2.0, 1.0, 2.0], [4.0, 0.5, 4.0]]))


def test_a_tensor_goes_image_by_image() -> None:
    assert torch.equal(scores(torch.tensor([2, 0])), torch.tensor([[2.0], [0.5]]))
    assert torch.equal(scores(torch.tensor([[2, 1], [0, 0]])), torch.tensor([[2.0, 3.0], [0.5, 0.5]]))


def test_outputs_are_what_they_say() -> None:
    first = LOGITS[0].tolist()
    total = sum(math.exp(value) for value in first)
    assert scores(Target(1, "probability"))[0].item() == pytest.approx(math.exp(3) / total)
    assert scores(Target(1, "log_probability"))[0].item() == pytest.approx(3 - math.log(total))
    assert scores(Target(1, "centered"))[0].item() == pytest.approx(3 - sum(first) / 3)
    assert scores(Target(1, "margin")).flatten().tolist() == pytest.approx([3 - 2, -1 - 4])
    assert scores(Target([0, 2], minus="bee")).tolist() == [[1 - 3, 2 - 3], [0.5 + 1, 4 + 1]]


def test_the_margin_stays_against_the_runner_up_of_the_unperturbed_image() -> None:
    found = resolve_target(Target(1, "margin"), Names(), LOGITS)
    perturbed = torch.tensor([[9.0, 3.0, 2.0]])
    assert found.scores(perturbed, torch.tensor([0])).item() == 3.0 - 2.0


def test_a_single_logit_is_a_sigmoid() -> None:
    logits = torch.tensor([[0.7], [-30.0]])
    assert torch.allclose(scores(Target(0, "probability"), logits), logits.sigmoid())
    wanted = torch.tensor([[-math.log(1 + math.exp(-0.7))], [-30.0]])
    assert torch.allclose(scores(Target(0, "log_probability"), logits), wanted)


def test_rows_may_belong_to_any_image() -> None:
    found = resolve_target(torch.tensor([2, 0]), Names(), LOGITS)
    rows = torch.tensor([1, 1, 0])
    logits = torch.tensor([[5.0, 6.0, 7.0], [8.0, 9.0, 10.0], [11.0, 12.0, 13.0]])
    assert found.scores(logits, rows).flatten().tolist() == [5.0, 8.0, 13.0]


def test_the_gradient_of_a_score_is_that_of_its_formula() -> None:
    logits = LOGITS.clone().requires_grad_()
    score = resolve_target(Target(1, "log_probability"), Names(), LOGITS).scores(logits).sum()
    (gradient,) = torch.autograd.grad(score, logits)
    assert torch.allclose(gradient, torch.tensor([0.0, 1.0, 0.0]) - LOGITS.softmax(1), atol=1e-6)


def test_classifiers_with_several_heads_take_head_and_class() -> None:
    logits = torch.stack([LOGITS, 10 * LOGITS], dim=1)  # (images, heads, classes)
    found = resolve_target([(1, "bee"), (0, 2)], Names(), logits)
    assert torch.equal(found.scores(logits), torch.tensor([[30.0, 2.0], [-10.0, 4.0]]))
    assert found.labels[0] == ("bee at head 1", "cat at head 0")
    pairs = torch.tensor([[[1, 0]], [[0, 2]]])
    assert torch.equal(scores(pairs, logits), torch.tensor([[10.0], [4.0]]))
    probability = scores(Target([(1, 0)], "probability"), logits)
    assert torch.allclose(probability, (10 * LOGITS).softmax(1)[:, :1])
    assert torch.equal(scores(Target([(1, 1)], minus=0), logits), torch.tensor([[20.0], [-15.0]]))
    assert torch.equal(scores(Target([(1, 1)], "margin"), logits), torch.tensor([[10.0], [-50.0]]))


def test_as_probability_keeps_the_classes_and_drops_the_rest() -> None:
    found = resolve_target(Target([0, 1], minus=2), Names(), LOGITS).as_probability()
    assert torch.allclose(found.scores(LOGITS), LOGITS.softmax(1)[:, :2])


@pytest.mark.parametrize(
    ("output", "is_linear"),
    [("logit", True), ("margin", True), ("centered", True), ("probability", False), ("log_probability", False)],
)
def test_a_target_knows_whether_it_is_linear_in_the_logits(output: str, is_linear: bool) -> None:
    found = resolve_target(Target(1, output), Names(), LOGITS)  # type: ignore[arg-type]
    other = LOGITS.flip(1) ** 2
    middle = found.scores((LOGITS + other) / 2)
    assert torch.allclose(middle, (found.scores(LOGITS) + found.scores(other)) / 2) == is_linear
    assert found.is_linear == is_linear


def test_labels_say_what_is_explained() -> None:
    assert resolve_target(Target(1, "log_probability"), Names(), LOGITS).labels[0] == ("log probability of bee",)
    assert resolve_target(Target(1, minus="cat"), Names(), LOGITS).labels[0] == ("bee minus cat",)


@pytest.mark.parametrize(
    ("target", "logits", "message"),
    [
        (torch.tensor([0, 1, 2]), LOGITS, "3 were given for 2 images"),
        (torch.tensor([0, 3]), LOGITS, "class 3 of head 0 does not exist: there are classes 0 to 2"),
        (torch.tensor([0, -1]), LOGITS, "class -1"),
        (torch.tensor([0.0, 1.0]), LOGITS, "integers, not .* torch.float32"),
        (torch.tensor([True, False]), LOGITS, "torch.bool"),
        (torch.zeros(2, 0, dtype=torch.long), LOGITS, r"not \(2, 0\)"),
        (torch.zeros(2, 1, 3, dtype=torch.long), LOGITS, r"not \(2, 1, 3\)"),
        ([], LOGITS, "list of targets is empty"),
        (1.5, LOGITS, "1.5 is not a target"),
        (("ant", "bee"), LOGITS, r"\('ant', 'bee'\) is not a target"),
        ((1, 0), LOGITS, "class 0 of head 1 does not exist"),
        (None, LOGITS[:, None].expand(2, 4, 3), "4 heads; give targets as"),
        (1, LOGITS[:, None].expand(2, 4, 3), "give the target 1 as"),
        (torch.tensor([0, 1]), LOGITS[:, None].expand(2, 4, 3), "pairs"),
        ([(4, 0)], LOGITS[:, None].expand(2, 4, 3), "class 0 of head 4 does not exist"),
        (Target(0, "margin"), LOGITS[:, :1], "'margin' needs at least two classes"),
        (Target(0, "centered"), LOGITS[:, :1], "'centered' needs at least two classes"),
    ],
)
def test_targets_that_do_not_fit_are_refused_by_name(target: object, logits: Tensor, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        resolve_target(target, Names(), logits)


def test_impossible_combinations_are_refused_at_once() -> None:
    with pytest.raises(TargetError, match="unknown output 'logits'"):
        Target(0, "logits")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="contrasts logits"):
        Target(0, "probability", minus=1)


def test_targets_are_counted_before_anything_is_run() -> None:
    wanted = [None, "bee", [1, 2, 2], torch.tensor([0, 1]), torch.zeros(2, 4, dtype=torch.long), Target([0, 1])]
    assert [count_targets(one) for one in wanted] == [1, 1, 3, 1, 4, 2]
    assert count_targets(torch.zeros(2, 3, 2, dtype=torch.long)) == 3


def test_only_tensors_are_taken_apart_by_image() -> None:
    tensor = torch.tensor([4, 5, 6, 7])
    assert select_targets(tensor, slice(1, 3), 4).tolist() == [5, 6]
    assert select_targets(Target(tensor, "margin"), slice(1, 3), 4).classes.tolist() == [5, 6]
    assert select_targets([0, 1, 2, 3], slice(1, 3), 4) == [0, 1, 2, 3]
    with pytest.raises(TargetError, match="4 were given for 8 images"):
        select_targets(tensor, slice(0, 4), 8)


def test_truth_values_and_one_hot_rows_are_no_targets() -> None:
    classifier, logits = pl.load("digit_cnn"), torch.zeros(3, 10)
    for wrong in (True, [True, False], (0, True)):
        with pytest.raises(TargetError):
            resolve_target(wrong, classifier, logits)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match=r"one-hot; give the indices of the classes: targets.argmax\(1\)"):
        resolve_target(torch.eye(10, dtype=torch.long)[[3, 7, 1]], classifier, logits)
    every = torch.arange(10).expand(3, 10)  # as many targets as classes, but indices
    assert resolve_target(every, classifier, logits).classes.tolist() == every.tolist()
