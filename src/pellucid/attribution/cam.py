"""Class activation maps: channels of the activation, weighed and summed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.attribution.case import Case, View
from pellucid.attribution.explanation import Passes
from pellucid.attribution.method import Attribution, Method

__all__ = ["AblationCAM", "GradCAM", "GradCAMPlusPlus", "LayerCAM", "ScoreCAM"]


@dataclass(frozen=True, kw_only=True)
class _CAM(Method):
    """Attributes shared by all class activation maps.

    Attributes:
        relu: False keeps negative values of the map.
    """

    relu: bool = True

    @property
    def signed(self) -> bool:  # type: ignore[override]
        return not self.relu

    def _map(self, case: Case, weights: Tensor) -> Attribution:
        """Sum over channels of weights (N, T, C) or (N, T, C, h, w) times activation."""
        if weights.ndim == 3:
            maps = torch.einsum("ntc,nchw->nthw", weights, case.activation)
        else:
            maps = torch.einsum("ntchw,nchw->nthw", weights, case.activation)
        return Attribution(maps.relu() if self.relu else maps)


@dataclass(frozen=True, kw_only=True)
class GradCAM(_CAM):
    """ReLU(sum_c a_c x mean over the map of the gradient of channel c) (Selvaraju et al., 2017)."""

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return self._map(case, case.gradients.mean((3, 4)))


@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus(_CAM):
    """Grad-CAM with pixel-wise weights (Chattopadhay et al., 2018).

    alpha = g^2 / (2 g^2 + g^3 sum_xy a), 0 / 0 read as 0 / 1; w_c = sum_xy alpha ReLU(exp(score) g). The factor exp(score) is
    common to the whole map; it is capped at exp(80), which float32 still holds.
    """

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        gradients = case.gradients
        total = case.activation.sum((2, 3))[:, None, :, None, None]
        denominator = 2 * gradients.square() + gradients.pow(3) * total
        alpha = gradients.square() / torch.where(denominator == 0, 1.0, denominator)
        factor = case.scores.clamp(max=80.0).exp()[:, :, None, None, None]
        return self._map(case, (alpha * (factor * gradients).relu()).sum((3, 4)))


@dataclass(frozen=True, kw_only=True)
class LayerCAM(_CAM):
    """ReLU(sum_c ReLU(gradient_c) x a_c), cell by cell (Jiang et al., 2021)."""

    def needs_gradients(self, view: View) -> bool:
        """Always."""
        return True

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        return self._map(case, case.gradients.relu())


@dataclass(frozen=True, kw_only=True)
class AblationCAM(_CAM):
    """Channels weighed by the relative drop of the score when they are set to zero (Ramaswamy et al., 2020).

    w_c = (y - y without c) / y, and 0 where y = 0. Channels that are zero everywhere cannot matter and are not run; where
    the logits are affine in the activation, one gradient gives every drop exactly.
    """

    def needs_gradients(self, view: View) -> bool:
        """Where the logits are affine in the activation."""
        return view.is_affine

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        if case.view.is_affine and case.target.is_linear:
            drops = torch.einsum("nchw,ntchw->ntc", case.activation, case.gradients)
        else:
            drops = self._drops(case)
        scores = case.scores[:, :, None]
        return self._map(case, torch.where(scores == 0, 0.0, drops / torch.where(scores == 0, 1.0, scores)))

    def _drops(self, case: Case) -> Tensor:
        """Fall of the score (N, T, C) when a channel is set to zero."""
        channels = case.activation.shape[1]
        drops = torch.zeros(len(case), case.target_count, channels, device=case.activation.device)
        for picture, one in enumerate(case.activation):
            alive = one.flatten(1).any(1).nonzero().flatten()
            for chunk in alive.split(self.max_batch):
                ablated = one.repeat(len(chunk), 1, 1, 1)
                ablated[torch.arange(len(chunk)), chunk] = 0.0
                scores = case.score(ablated, torch.full((len(chunk),), picture))
                drops[picture, :, chunk] = (case.scores[picture] - scores).T
        return drops


@dataclass(frozen=True, kw_only=True)
class ScoreCAM(_CAM):
    """Channels weighed by the target's probability when the picture shines through them alone (Wang et al., 2020).

    Each channel is upsampled to the picture, scaled to [0, 1] and multiplied with the picture, and the whole network is
    run: C passes of the full network, whatever the layer. A constant channel has weight 0.
    """

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case."""
        target, channels = case.target.as_probability(), case.activation.shape[1]
        weights = torch.zeros(len(case), case.target_count, channels, device=case.activation.device)
        for picture, one in enumerate(case.activation):
            low, high = one.flatten(1).amin(1), one.flatten(1).amax(1)
            for chunk in (high > low).nonzero().flatten().split(self.max_batch):
                scale = (high - low)[chunk, None, None]
                masks = (one[chunk] - low[chunk, None, None]) / scale
                masks = F.interpolate(masks[:, None], case.pictures.shape[2:], mode="bilinear", align_corners=False)
                with torch.no_grad():
                    logits = case.view.classifier.logits(case.pictures[picture].to(masks.device) * masks)
                case.passes += Passes(network_forward=len(chunk))
                rows = torch.full((len(chunk),), picture)
                weights[picture, :, chunk] = target.scores(logits, rows).T.to(weights.device)
        return self._map(case, weights)
