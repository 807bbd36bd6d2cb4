"""What is changed in a training step, what learns from it, and what a step's losses are made of."""

from dataclasses import replace

import pytest
import torch
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset

from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.model.features import FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import DataSizes, SurrogateNetworks
from pellucid.surrogate.training.image_datasets import InMemory
from pellucid.surrogate.training.preparation import TrainingData, prepare
from pellucid.surrogate.training.step import StepLosses
from pellucid.surrogate.training.training_batches import draw_batch, intervene

SPAN = torch.tensor([[5.0, 7.0], [6.0, 8.0]])  # of contexts that no code below has by itself
Stepped = tuple[dict[str, Tensor], list[Tensor], Tensor, TrainingData]


def codes(rows: int = 40) -> Codes:
    drawn = torch.randn(rows, 9, generator=torch.Generator().manual_seed(1))
    return Codes(*(block.clone().requires_grad_() for block in torch.split(drawn, [2, 3, 4], dim=1)))


def test_each_row_has_one_context_in_its_span_or_one_latent_or_all_nuisance_of_another_row_changed() -> None:
    given = codes()
    result = intervene(given, SPAN, torch.Generator().manual_seed(0))
    first, second = result.bounds
    assert 0 < first < second < 40
    context, latent, nuisance = (
        (new != old)
        for new, old in (
            (result.codes.context, given.context),
            (result.codes.latent, given.latent),
            (result.codes.nuisance, given.nuisance),
        )
    )
    assert context.sum(1).tolist() == [1] * first + [0] * (40 - first)
    assert latent.sum(1).tolist() == [0] * first + [1] * (second - first) + [0] * (40 - second)
    assert nuisance.sum(1).tolist() == [0] * second + [4] * (40 - second)
    requested = torch.where(context, result.codes.context, SPAN[0])
    assert bool(((requested >= SPAN[0]) & (requested <= SPAN[1])).all())
    others = torch.cdist(result.codes.nuisance[second:].detach(), given.nuisance.detach()).argmin(1)
    assert bool((others != torch.arange(second, 40)).all())
    assert torch.equal(result.codes.nuisance[second:], given.nuisance[others])


def test_only_rows_with_swapped_nuisance_teach_the_encoders_what_is_nuisance() -> None:
    given = codes()
    result = intervene(given, SPAN, torch.Generator().manual_seed(0))
    _, second = result.bounds
    gradients = torch.autograd.grad(
        result.codes.to_vector().square().sum(), [given.context, given.latent, given.nuisance], allow_unused=True
    )
    assert gradients[0] is None
    taught = gradients[1].abs().sum(1) > 0
    assert taught.tolist() == [False] * second + [True] * (40 - second)
    givers = torch.cdist(result.codes.nuisance[second:].detach(), given.nuisance.detach()).argmin(1)
    expected = torch.zeros(40, dtype=torch.bool)
    expected[givers] = True
    assert torch.equal(gradients[2].abs().sum(1) > 0, expected)


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Stepped:
    """Losses of one step after the warm-up, and what they were computed from."""
    torch.manual_seed(0)
    classifier, data = classifier_of(small_cnn()), bars(64, 0, 0.5)
    extractor, space = FeatureExtractor(classifier), DisplaySpace.of(classifier, data.images)
    options = TINY.replace(logits=2.0, prediction_kl=0.7, nuisance_swap=3.0, latent_noise=0.0, nuisance_noise=0.0)
    values = data.context.values.float()
    ready = prepare(
        InMemory(space.to_display(data.images)),
        values,
        extractor=extractor,
        space=space,
        options=options,
        folder=tmp_path_factory.mktemp("run"),
    )
    networks = SurrogateNetworks(DataSizes(1, extractor.length, 3, data.context.names), options)
    random = torch.Generator().manual_seed(0)
    step = StepLosses(extractor, space, ready, options, random)
    batch = draw_batch(ready, 16, paired_fraction=0.0, random=random, device=torch.device("cpu"))
    losses, generated = step.surrogate_losses(networks, batch, None, warmup=False, step=1)
    images = (batch.images, generated.reconstructed, generated.intervened)
    logits = [classifier.logits(space.from_display(each)) for each in images]
    return losses, logits, ready.logits.std(), ready


def test_the_logit_loss_is_the_smooth_distance_in_standard_deviations_of_the_logits(stepped: Stepped) -> None:
    losses, (target, reconstructed, _), scale, _ = stepped
    by_hand = 2.0 * F.smooth_l1_loss(reconstructed / scale, target / scale)
    torch.testing.assert_close(losses["logits"].detach(), by_hand.detach(), rtol=1e-4, atol=1e-6)


def test_swapped_nuisance_costs_what_it_does_to_the_answer_in_its_rows_alone(stepped: Stepped) -> None:
    losses, (target, _, changed), scale, _ = stepped
    rows = len(changed)
    swapped = slice(rows - round(0.35 * rows), rows)  # of eight rows, three: context .45, latent .2, nuisance .35
    before, after = target[:rows][swapped], changed[swapped]
    teacher = F.kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="sum")
    distance = F.smooth_l1_loss(after / scale, before / scale, reduction="none").mean(1).sum()
    by_hand = 3.0 * (0.7 * teacher + 2.0 * distance) / rows
    torch.testing.assert_close(losses["nuisance_swap"].detach(), by_hand.detach(), rtol=1e-4, atol=1e-6)


def test_versions_that_are_left_out_lend_no_nuisance_either(stepped: Stepped) -> None:
    ready = stepped[3]
    weights = torch.ones(2 * ready.num_images)
    weights[ready.num_images :: 2] = 0
    data = replace(
        ready,
        images=ConcatDataset([ready.images, ready.images]),
        weights=weights,
        **{name: torch.cat([getattr(ready, name)] * 2) for name in ("context", "phi", "logits")},
    )
    marked = replace(data, phi=torch.arange(2.0 * ready.num_images)[:, None].expand(-1, data.phi.shape[1]))
    random = torch.Generator().manual_seed(0)
    batch = draw_batch(marked, 256, paired_fraction=1.0, random=random, device=torch.device("cpu"))
    source = batch.source_phi[:, 0].long()
    assert bool((weights[source] > 0).all())
    assert bool((source != batch.phi[:, 0].long()).any())
