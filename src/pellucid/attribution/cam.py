"""Class activation maps: channels of the activation, weighed and summed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.view import View
from pellucid.shapes import Float


@dataclass(frozen=True, kw_only=True)
class _CAM(Method):
    """Attributes shared by all class activation maps.

    Attributes:
        relu: False keeps negative values of the map.
    """

    relu: bool = True

    @property
    def signed(self) -> bool:
        return not self.relu

    def _map(self, case: Case, weights: Float[Tensor, " N T C *cells"]) -> Attribution:
        """Sum over channels of weights (N, T, C) or (N, T, C, h, w) times activation."""
        if weights.ndim == 3:
            maps = torch.einsum("ntc,nchw->nthw", weights, case.activation)
        else:
            maps = torch.einsum("ntchw,nchw->nthw", weights, case.activation)
        return Attribution(maps.relu() if self.relu else maps)


@dataclass(frozen=True, kw_only=True)
class GradCAM(_CAM):
    """ReLU(sum_c a_c x mean over the map of the gradient of channel c) (Selvaraju et al., 2017).

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.GradCAM()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return self._map(case, case.gradients.mean((3, 4)))


@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(_CAM):
    """Grad-CAM with pixel-wise weights (Chattopadhay et al., 2018).

    alpha = g^2 / (2 g^2 + g^3 sum_xy a), 0 / 0 read as 0 / 1; w_c = sum_xy alpha ReLU(exp(score) g). The factor
    exp(score) is common to the whole map; it is kept within exp(+-60), so that the map neither overflows nor vanishes.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.GradCAMPlusPlus()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        gradients = case.gradients
        total = case.activation.sum((2, 3))[:, None, :, None, None]
        # alpha with g^2 cancelled, which would underflow for the small gradients of probabilities.
        denominator = 2 + gradients * total
        alpha = torch.where(denominator == 0, gradients.square(), 1 / denominator)
        factor = case.scores.clamp(-60.0, 60.0).exp()[:, :, None]
        return self._map(case, factor * (alpha * gradients.relu()).sum((3, 4)))


@dataclass(frozen=True, kw_only=True)
class LayerCAM(_CAM):
    """ReLU(sum_c ReLU(gradient_c) x a_c), cell by cell (Jiang et al., 2021).

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.LayerCAM()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return self._map(case, case.gradients.relu())


@dataclass(frozen=True, kw_only=True)
class AblationCAM(_CAM):
    """Channels weighed by the relative drop of the score when they are set to zero (Ramaswamy et al., 2020).

    w_c = (y - y without c) / y, and 0 where y = 0. Channels that are zero everywhere cannot matter and are not run;
    where the logits are affine in the activation, one gradient gives every drop exactly.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.AblationCAM()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    def needs_gradients(self, view: View) -> bool:
        """Where the logits are affine in the activation."""
        return view.is_affine

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        drops = self._drops(case)
        scores = case.scores[:, :, None]
        return self._map(case, torch.where(scores == 0, 0.0, drops / torch.where(scores == 0, 1.0, scores)))

    def _drops(self, case: Case) -> Tensor:
        """Fall of the score (N, T, C) when a channel is set to zero."""
        if case.is_affine:
            return torch.einsum("nchw,ntchw->ntc", case.activation, case.gradients)
        drops = case.activation.new_zeros(len(case), case.target_count, case.activation.shape[1])
        alive = case.activation.flatten(2).any(2)
        for rows, channels in _pairs(alive, case.budget.rows("forward")):
            ablated = case.activation[rows]
            ablated[torch.arange(len(rows)), channels] = 0.0
            drops[rows, :, channels] = case.scores[rows] - case.score(ablated, rows)
        return drops


@dataclass(frozen=True, kw_only=True)
class ScoreCAM(_CAM):
    """Channels weighed by the target's probability when the image shines through them alone (Wang et al., 2020).

    Each channel is upsampled to the image, then scaled to [0, 1] (equation 6) and multiplied with the image, and the
    whole network is
    run: C passes of the full network, whatever the layer. The weight is the probability of the target's class, whatever
    the target's output. A constant channel has weight 0.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> pl.attribution.ScoreCAM()(view, torch.rand(2, 1, 32, 32), "7").values.shape
    torch.Size([2, 1, 8, 8])
    """

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        target = case.target.as_probability()
        varied = case.activation.flatten(2).amax(2) > case.activation.flatten(2).amin(2)
        weights = case.activation.new_zeros(len(case), case.target_count, varied.shape[1])
        images = case.images.to(weights)
        for rows, channels in _pairs(varied, case.budget.rows("prefix", "forward")):
            masks = F.interpolate(
                case.activation[rows, channels][:, None], images.shape[2:], mode="bilinear", align_corners=False
            )
            low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
            masks = (masks - low) / (high - low)
            scores = target.scores(case.network_logits(images[rows] * masks), rows)
            weights[rows, :, channels] = torch.where((high > low)[:, 0, 0], scores, 0).to(weights)
        return self._map(case, weights)


def _pairs(selected: Tensor, max_rows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and channels where `selected` (N, C) holds, at most `max_rows` at once."""
    pairs = selected.nonzero().cpu()
    for start in range(0, len(pairs), max_rows):
        images, channels = pairs[start : start + max_rows].unbind(1)
        yield images, channels
