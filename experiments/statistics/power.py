"""How often does a test find what is there?"""

import numpy as np

from experiments.statistics.level import LEVEL, tcav_of
from experiments.statistics.simulate import Settings, Simulation


def _tcav_power(settings: Settings, random: np.random.Generator) -> dict[str, bool | None]:
    result = tcav_of(settings, random, settings["shift"])
    return {
        "shown: mean sensitivity": bool(result.p_values[0] <= LEVEL),
        "relabeled": bool(result.relabeled_p_values[0] <= LEVEL),
    }


TCAV = Simulation(
    "tcav_power",
    "TCAV, p <= 5 % where the concept's images are shifted in color; a shift of 1 moves their mean along the class's "
    "gradient by 1.7 standard deviations of the negatives, 0.5 by 0.75, 0.25 by 0.3.",
    [
        {"shift": shift, "concept": concept, "negatives": negatives}
        for shift in (0.25, 0.5, 1.0, 2.0)
        for concept, negatives in ((10, 50), (20, 200), (50, 200))
    ],
    _tcav_power,
    replications=300,
)

SIMULATIONS = (TCAV,)
