"""How often does a test find something where nothing is? At 5 % it may in 5 of 100; 6 % are allowed."""

from typing import Any

import numpy as np

from experiments.statistics.concepts import fit, generator_of, images, view
from experiments.statistics.simulate import Settings, Simulation
from pellucid.concepts import tcav
from pellucid.statistics import permutation_p_value

LEVEL = 0.05


def tcav_of(settings: Settings, random: np.random.Generator, shift: float = 0.0) -> Any:
    """TCAV of a concept whose images are shifted against negatives and class images that are drawn alike."""
    draws = generator_of(random)
    concept, negatives = images(settings["concept"], draws, shift), images(settings["negatives"], draws)
    cav = fit(concept, negatives, settings.get("estimator", "difference"))
    return tcav(
        view(),
        [cav],
        images(24, draws),
        1,
        random_sets=settings.get("random sets", 10),
        permutations=199,
        seed=int(random.integers(2**31)),
        max_batch=64,
    )


def _tcav_level(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    result = tcav_of(settings, random)
    sets = permutation_p_value(result.random_scores[0], result.baseline_scores[0], repeats=199)
    return {
        "shown: mean sensitivity": bool(result.p_values[0] <= LEVEL),
        "relabeled": bool(result.relabeled_p_values[0] <= LEVEL),
        "no longer computed: random sets": sets <= LEVEL,
    }


TCAV = Simulation(
    "tcav_level",
    "TCAV, p <= 5 % where concept, negatives and class images are drawn alike. Expected: 6 % at most.",
    [
        {"random sets": sets, "concept": concept, "negatives": negatives, "estimator": estimator}
        for sets, concept, negatives, estimator in (
            (5, 20, 200, "difference"),
            (10, 20, 200, "difference"),
            (30, 20, 200, "difference"),
            (10, 5, 50, "difference"),
            (10, 10, 50, "difference"),
            (30, 10, 500, "difference"),
            (10, 50, 50, "difference"),
            (10, 20, 200, "ridge"),
            (10, 20, 200, "lda"),
        )
    ],
    _tcav_level,
    replications=1000,
)

SIMULATIONS = (TCAV,)
