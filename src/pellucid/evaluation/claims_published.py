"""The thirteen claims in words, with what must be run to check them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pellucid.evaluation import claims_tests as tests
from pellucid.evaluation.claims_evidence import (
    ACTIVATION,
    BACKPROPAGATION,
    PERTURBATION,
    POOLED,
    Check,
    Scores,
)

_LOCAL = (*BACKPROPAGATION, "LayerCAM")


@dataclass(frozen=True)
class PublishedClaim:
    """A claim of Rao et al., CVPR 2022, and how it is checked.

    Attributes:
        number: 1 to 13.
        statement: the claim.
        rule: when it counts as true, in words; the thresholds are ours.
        check: from scores to numbers; none where nothing was measured.
        settings, layers, methods: all that the claim is about; every method if none are named.
        extra: what else `pellucid evaluate` must be told.
        needs: what a run may lack although all of these are in it, in words.
    """

    number: int
    statement: str
    rule: str
    check: Callable[[Scores], Iterable[Check]]
    settings: tuple[str, ...] = ("GridPG",)
    layers: tuple[str, ...] = tests.LAYERS
    methods: tuple[str, ...] = ()
    extra: str = ""
    needs: str = ""

    @property
    def measure(self) -> str:
        """The options of `pellucid evaluate` that measure it."""
        methods = ",".join(self.methods) or "all"
        parts = (
            f"--settings {','.join(self.settings)} --layers {','.join(self.layers)} --methods {methods}",
            self.extra,
        )
        return " ".join(part for part in parts if part)


PUBLISHED = (
    PublishedClaim(
        1,
        "Back-propagation methods at the input localize poorly on GridPG, near chance.",
        "Medians at most a fifth of the way from chance to 1 (0.4 for 2 x 2 cells), and the middle half of the scores "
        "covers chance.",
        tests.backpropagation_is_poor_at_the_input,
        layers=("input",),
        methods=BACKPROPAGATION,
    ),
    PublishedClaim(
        2,
        "Every method except Layer-CAM localizes better on GridPG from the input to the final layer.",
        "Medians do not fall from one layer to the next; Layer-CAM gains at most 0.05 in all.",
        tests.methods_improve_towards_the_final_layer,
    ),
    PublishedClaim(
        3,
        "At the final layer IntGrad, IxG, Grad-CAM and Occlusion are nearly the same on GridPG.",
        "Medians of every two within 0.05, and Spearman's rank correlation of their scores at least 0.8.",
        tests.four_methods_agree_at_the_final_layer,
        layers=("final",),
        methods=("IntegratedGradients", "InputXGradient", "GradCAM", "Occlusion"),
    ),
    PublishedClaim(
        4,
        "Back-propagation methods and Layer-CAM are near perfect on DiFull at all layers.",
        "Medians within 0.03 of what a map that is even in the cell attains (0.1 for signed maps, which are clipped "
        "after up-sampling); at the input within 0.001.",
        tests.local_methods_are_near_perfect_on_difull,
        settings=("DiFull",),
        methods=_LOCAL,
    ),
    PublishedClaim(
        5,
        "Pooled CAMs at the final layer are worse on DiFull than on GridPG: the twin lights up.",
        "Median on DiFull at most that on GridPG, and a mirror share at least a quarter of the way from chance to 1 "
        "(0.5 for 2 x 2 cells).",
        tests.pooled_activation_lights_up_the_twin,
        settings=("GridPG", "DiFull"),
        layers=("final",),
        methods=POOLED,
    ),
    PublishedClaim(
        6,
        "Activation methods other than Layer-CAM score below chance at the input on GridPG.",
        "Medians at most 1 / cells.",
        tests.activation_is_below_chance_at_the_input,
        layers=("input",),
        methods=POOLED,
    ),
    PublishedClaim(
        7,
        "Occlusion is high on DiFull at all layers, and falls slightly towards the final one.",
        "Medians at least 0.8; the fall from input to final is 0 to 0.2.",
        tests.occlusion_is_high_on_difull,
        settings=("DiFull",),
        methods=("Occlusion",),
    ),
    PublishedClaim(
        8,
        "RISE is poor everywhere with a wide spread: about half of its maps are good.",
        "Medians at most 0.6, interquartile ranges at least 0.15, and 25 to 75 % of the scores above 0.5.",
        tests.rise_is_poor_everywhere,
        settings=("GridPG", "DiFull"),
        methods=("RISE",),
    ),
    PublishedClaim(
        9,
        "DiPart gives nearly the scores of DiFull; local methods lose a little at the input.",
        "Medians within 0.05 of those on DiFull; at the input, for back-propagation and Layer-CAM, not above them.",
        tests.dipart_equals_difull,
        settings=("DiFull", "DiPart"),
    ),
    PublishedClaim(
        10,
        "At the input CAMs rank the grids unlike all other methods; at the final layer all methods agree.",
        "Median rank correlations on GridPG: CAMs with the rest at the input at most 0.3, the rest among themselves at "
        "least 0.3, all at the final layer at least 0.4.",
        tests.ranks_agree_at_the_final_layer_only,
        layers=("input", "final"),
        methods=(*BACKPROPAGATION, *ACTIVATION, *PERTURBATION),
    ),
    PublishedClaim(
        11,
        "Grids of 3 x 3 cells are harder than grids of 2 x 2.",
        "Medians on GridPG are not higher with more cells. CIFAR-10 trends are for runs on it to say.",
        tests.more_cells_are_harder,
        extra="--n 3 --out OTHER, and then pellucid report RUN --with OTHER",
        needs="a run with another number of cells",
    ),
    PublishedClaim(
        12,
        "Smoothing makes IntGrad at the input localize well on GridPG, and IxG too where there is no BatchNorm.",
        "IntGrad: the best kernel gains at least 0.05 and ranks grids more like Grad-CAM at the final layer. Both: at "
        "most 0.05 below what the kernel can attain on DiFull. The gain of IxG depends on the network: only shown.",
        tests.smoothing_helps_at_the_input,
        settings=("GridPG", "DiFull"),
        layers=("input", "final"),
        methods=("IntegratedGradients", "InputXGradient", "GradCAM"),
        extra="--smooth 9,17,33,65,129",
        needs="smoothed maps at the input",
    ),
    PublishedClaim(
        13,
        "The worst 2 % of the maps are bad with all methods on GridPG, for the same grids, but not on DiFull.",
        "AggAtt's last bin at the final layer, first cell: mean score at most 0.5 on GridPG, at least 0.8 on DiFull "
        "for back-propagation and Layer-CAM; a tenth of the worst grids common to two methods.",
        tests.the_worst_maps_are_bad_for_all_methods,
        settings=("GridPG", "DiFull"),
        layers=("final",),
        extra="--grids 500",
        needs="at least 25 grids, so that the worst 2 % are some",
    ),
)
