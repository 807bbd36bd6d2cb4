"""The concept grid pointing game: where concept maps and the evidence they select lie on grids."""

import pytest
import torch
from tests.attribution.support import gap_net, plain_net
from tests.concepts.support import cav_for
from torch import Tensor, nn

import pellucid as pl
from pellucid.concepts import CAV, VisualTCAV
from pellucid.errors import PellucidError, TargetError
from pellucid.evaluation import DiFull, DiPart, GridPG, split_cells
from pellucid.evaluation.metrics import concept_evidence, concept_grids, concept_pointing_game
from pellucid.evaluation.settings import GridSetting

CELL = 12
SETTINGS = [GridPG, DiFull, DiPart]


class Detector(nn.Module):
    """Its channels are red, green and blue above 0; every class likes all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv2d(3, 3, 1, bias=False)
        self.filter.weight.data = torch.eye(3)[:, :, None, None]
        self.relu, self.pool, self.head = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)
        self.head.weight.data = torch.tensor([[1.0, 0.5, 0.5], [2.0, 1.0, -1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.relu(self.filter(x))), 1))


def red_and_others() -> tuple[Tensor, Tensor]:
    """Images with a red square on green and blue noise, and images of the noise alone."""
    images = torch.rand(16, 3, CELL, CELL, generator=torch.Generator().manual_seed(0))
    images[:, 0] = 0.0
    images[:8, 0, 4:8, 4:8] = 1.0
    return images[:8], images[8:]


def red_cav(classifier: pl.Classifier, layer: str = "relu") -> CAV:
    return cav_for(classifier.at(layer), torch.tensor([1.0, 0.0, 0.0]), 0.1, 1.0, name="red")


@pytest.mark.parametrize("shape", [2, (1, 3), (3, 2)])
def test_grids_hold_the_concept_once_among_different_others(shape: int | tuple[int, int]) -> None:
    shown, others = red_and_others()
    grids, places = concept_grids(shown, others, shape, seed=3)
    cells = split_cells(grids, shape)
    for row, place, image in zip(cells, places.tolist(), shown, strict=True):
        assert torch.equal(row[place], image)
        rest = [cell for index, cell in enumerate(row) if index != place]
        result = [[torch.equal(cell, other) for other in others].index(True) for cell in rest]
        assert len(set(result)) == len(rest) == cells.shape[1] - 1
    assert len(set(places.tolist())) > 1
    again = concept_grids(shown, others, shape, seed=3)
    assert torch.equal(again[0], grids)
    assert torch.equal(again[1], places)
    assert not torch.equal(concept_grids(shown, others, shape, seed=4)[0], grids)


def test_grids_that_cannot_be_filled_are_refused() -> None:
    shown, others = red_and_others()
    with pytest.raises(PellucidError, match="3 others or more"):
        concept_grids(shown, others[:2])
    with pytest.raises(PellucidError, match="at least 2 cells"):
        concept_grids(shown, others, 1)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_concept_that_is_seen_perfectly_wins_the_pointing_game(kind: type[GridSetting]) -> None:
    shown, others = red_and_others()
    classifier = pl.Classifier(Detector().eval(), input_size=CELL)
    grids, places = concept_grids(shown, others)
    result = concept_pointing_game(kind(classifier).at("relu"), grids, [red_cav(classifier)], places)
    assert result.scores[:, 0].tolist() == [pytest.approx(1.0)] * 8
    assert result.strongest[:, 0].tolist() == [pytest.approx(1.0)] * 8
    assert result.chance == 0.25
    wrong = concept_pointing_game(kind(classifier).at("relu"), grids, [red_cav(classifier)], (places + 1) % 4)
    assert not wrong.scores.any()
    assert not wrong.strongest.any()


def test_scores_are_shares_of_the_maps_mass_for_every_concept_in_its_own_cell() -> None:
    classifier = pl.Classifier(gap_net(), input_size=CELL)
    view = DiPart(classifier).at("middle")
    generator = torch.Generator().manual_seed(1)
    grids, cells = torch.randn(3, 3, 24, 24, generator=generator), torch.tensor([[0, 3], [1, 1], [2, 0]])
    channels = view.activation(grids).shape[1]
    cavs = [
        cav_for(classifier.at("middle"), torch.randn(channels, generator=generator), 0.05, 0.4, name=name)
        for name in ("one", "other")
    ]
    result = concept_pointing_game(view, grids, cavs, cells)
    large = torch.nn.functional.interpolate(result.maps.double(), size=(24, 24), mode="bilinear")
    parts = split_cells(large, 2).sum((3, 4))  # (3, cells, 2)
    shares = parts / parts.sum(1, keepdim=True)
    for n in range(3):
        for d in range(2):
            assert float(result.scores[n, d]) == pytest.approx(float(shares[n, cells[n, d], d]))


def test_cells_that_do_not_fit_the_grids_are_refused() -> None:
    shown, others = red_and_others()
    classifier = pl.Classifier(Detector().eval(), input_size=CELL)
    grids, places = concept_grids(shown, others)
    view = DiFull(classifier).at("relu")
    with pytest.raises(PellucidError, match="8 grids and 1 concepts"):
        concept_pointing_game(view, grids, [red_cav(classifier)], places[:3])
    with pytest.raises(PellucidError, match="cell 4"):
        concept_pointing_game(view, grids, [red_cav(classifier)], places + 4)
    with pytest.raises(TargetError):
        concept_evidence(view, grids, [red_cav(classifier)], 0)


@pytest.mark.parametrize("layer", ["input", "middle", "final"])
@pytest.mark.parametrize("net", [gap_net, plain_net])
def test_heads_of_difull_give_nothing_to_a_concept_in_a_cell_that_they_do_not_see(net: object, layer: str) -> None:
    classifier = pl.Classifier(net(), input_size=CELL)  # type: ignore[operator]
    view = DiFull(classifier).at(layer)
    grids = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(2))
    activation = view.activation(grids)
    direction = torch.randn(activation.shape[1], generator=torch.Generator().manual_seed(3))
    cav = cav_for(classifier.at(layer), direction, 0.0, 1.0)
    evidence = concept_evidence(view, grids, [cav], [(head, 2) for head in range(4)])
    by_cell = split_cells(evidence[:, 0], 2).abs().sum((3, 4))  # (N, cells, heads)
    seen = torch.eye(4, dtype=torch.bool).expand(2, 4, 4)
    assert bool((by_cell[~seen] == 0).all())
    assert bool((by_cell[seen] > 0).all())


def test_a_concept_in_one_cell_contributes_to_the_head_of_that_cell_alone() -> None:
    shown, others = red_and_others()
    classifier = pl.Classifier(Detector().eval(), input_size=CELL)
    grids, places = concept_grids(shown, others)
    explainer = VisualTCAV(DiFull(classifier).at("relu"), [red_cav(classifier)], permutations=0)
    result = explainer(grids, targets=[(head, 0) for head in range(4)])
    own = torch.nn.functional.one_hot(places, 4).bool()
    # 16 red pixels of 144, each worth the head's weight of 1.
    torch.testing.assert_close(result.signed[:, 0][own], torch.full((8,), 16 / 144))
    assert not result.signed[:, 0][~own].any()
    assert not result.reference[:, 0][~own].any()
    assert bool((result.reference[:, 0][own] > 0.1).all())


def test_evidence_adds_up_to_the_signed_contribution_batch_by_batch() -> None:
    classifier = pl.Classifier(plain_net(), input_size=CELL)
    view = classifier.at("middle")
    images = torch.randn(5, 3, CELL, CELL, generator=torch.Generator().manual_seed(4))
    channels = view.activation(images).shape[1]
    cavs = [
        cav_for(view, torch.randn(channels, generator=torch.Generator().manual_seed(seed)), 0.0, 0.5, name=str(seed))
        for seed in (5, 6)
    ]
    targets = torch.tensor([0, 1, 2, 3, 4])
    result = concept_evidence(view, images, cavs, targets, max_batch=2)
    explained = VisualTCAV(view, cavs, tolerance=None, permutations=0)(images, targets)
    torch.testing.assert_close(result.sum((3, 4)), explained.signed, rtol=1e-4, atol=1e-6)
    assert bool((result != 0).flatten(2).any(2).any())
