"""Small classifiers, and the surrogate of a planted classifier of bars, compared with true counterfactual images."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pellucid import Classifier
from pellucid.data import ContextTable
from pellucid.surrogate import SurrogateExplainer
from pellucid.synthetic import bars_model, draw_bars

SIDE = 16
CONTEXTS = ("thickness", "intensity")


@dataclass(frozen=True)
class Bars:
    """Images (N, 1, 16, 16) and what they are drawn from: thickness, intensity and position."""

    images: Tensor
    drawn_from: ContextTable

    @property
    def context(self) -> ContextTable:
        """What the surrogate is trained with; the position is withheld."""
        return self.drawn_from.select(CONTEXTS)


def bars(count: int, seed: int, correlation: float) -> Bars:
    context = bars_model(correlation).sample(count, seed=seed)
    return Bars(draw_bars(context, SIDE), context)


def classifier_of(network: nn.Module, channels: int = 1) -> Classifier:
    return Classifier(network.eval(), input_size=(channels, SIDE, SIDE))


def small_cnn(channels: int = 1) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


@dataclass(frozen=True)
class Effect:
    """What setting one context to five values does to the decision, by the surrogate and in truth.

    Attributes:
        reach, true_reach: range over the values of the mean margin.
        determination: R^2 of the margins, image by image and value by value, for those of the true counterfactuals;
            of the margins themselves, since the true change is all but the same for every bar.
        distance: mean absolute difference of the drawn image to the true counterfactual.
    """

    reach: float
    true_reach: float
    determination: float
    distance: float


@torch.no_grad()
def effect_of(explainer: SurrogateExplainer, test: Bars, name: str) -> Effect:
    """Intervene on one context of every image."""
    codes = explainer.encode(test.images)
    column = explainer.context_names.index(name)
    values = test.context.values.float()
    ours, true, distances = [], [], []
    for value in torch.quantile(values[:, column], torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])).tolist():
        raw = values.clone()
        raw[:, column] = value
        context = codes.context.clone()
        context[:, column] = explainer.standard_context(raw)[:, column]
        drawn = explainer.decode(replace(codes, context=context))
        expected = draw_bars(test.drawn_from.with_columns({name: value}), SIDE)
        ours.append(margin(explainer, drawn))
        true.append(margin(explainer, expected))
        distances.append(float((drawn - expected).abs().mean()))
    result, truth = torch.stack(ours), torch.stack(true)
    unexplained = (result - truth).square().mean() / truth.var(correction=0)
    means = result.mean(1), truth.mean(1)
    reach, true_reach = (float(mean.max() - mean.min()) for mean in means)
    return Effect(reach, true_reach, 1 - float(unexplained), sum(distances) / len(distances))


def margin(explainer: SurrogateExplainer, images: Tensor) -> Tensor:
    logits = explainer.logits(images)
    return logits[:, 1] - logits[:, 0]


def agreement(explainer: SurrogateExplainer, test: Bars) -> float:
    """How often the classifier answers the same to an image redrawn."""
    redrawn = explainer.logits(explainer.reconstruct(test.images)).argmax(1)
    return float((redrawn == explainer.logits(test.images).argmax(1)).float().mean())
