"""The BatchNorm hypothesis: smoothed input x gradient localizes only in networks without it.

python -m experiments.attribution_evaluation.batchnorm --data DIR --work DIR [--minutes 20] [--out DIR]

Pairs with and without BatchNorm (see `replica`) see the same grids; every kernel is from one unsmoothed map.
"""

from experiments.attribution_evaluation.commands import arguments, prepare
from experiments.attribution_evaluation.replica import SEEDS, write_images
from experiments.attribution_evaluation.results import write_results
from experiments.attribution_evaluation.sweeps import Job, run_jobs
from pellucid.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Method,
)
from pellucid.evaluation import SweepOptions

KERNELS = (5, 9, 17, 33)
METHODS: tuple[Method, ...] = (
    Gradient(),
    InputXGradient(),
    IntegratedGradients(steps=8),
    GradCAM(),
    GradCAMPlusPlus(),
    LayerCAM(),
)
_GRIDS = 200
_IMAGES = 3000


def all_jobs() -> list[Job]:
    """One run for each pair."""
    options = SweepOptions(
        settings=("GridPG", "DiFull"),
        layers=("input", "final"),
        grids=_GRIDS,
        same_class_grids=_GRIDS,
        kernel_sizes=KERNELS,
        keep_maps="none",
        reuse=True,
        shard_size=10,
    )
    return [Job(f"replica-{seed}", (f"replica-plain-{seed}", f"replica-bn-{seed}"), METHODS, options) for seed in SEEDS]


def main() -> None:
    """Run for as long as allowed, then write what there is."""
    chosen = arguments(__doc__)
    prepare()
    images = write_images(chosen.work / "digits", _IMAGES)
    jobs, work = all_jobs(), chosen.work / "batchnorm"
    if chosen.minutes:
        run_jobs(jobs, images, chosen.data, work, chosen.minutes)
    write_results(jobs, work, chosen.out, "batchnorm")


if __name__ == "__main__":
    main()
