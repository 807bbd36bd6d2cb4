"""Three settings, three layers, all methods, 2 x 2 and 3 x 3 cells, on CIFAR-10's ResNet-20 and ResNet-56.

python -m experiments.attribution_evaluation.cifar --data DIR --work DIR [--minutes 20] [--out DIR]
"""

from pathlib import Path

from experiments.attribution_evaluation.commands import arguments, prepare
from experiments.attribution_evaluation.images import Labelled, cifar_images
from experiments.attribution_evaluation.results import write_results
from experiments.attribution_evaluation.sweeps import Job, run_jobs
from pellucid.attribution import (
    METHODS,
    RISE,
    InputXGradient,
    IntegratedGradients,
    Method,
    Occlusion,
    SmoothGrad,
)
from pellucid.evaluation import SweepOptions

NETWORKS = ("resnet20", "resnet56")
KERNELS = (3, 5, 9, 17, 33)
_GRIDS = 24
_PER_CLASS = 60  # of 1000: as many as these grids need, and some to spare
_DEFAULT = tuple(
    method()
    for name, method in METHODS.items()
    if name not in ("IntegratedGradients", "SmoothGrad", "Occlusion", "RISE")
)


def all_jobs() -> list[Job]:
    """Every run; the larger network sees fewer grids where time is short."""
    sweeps = [_sweep(name, n, layer) for name in NETWORKS for n in (2, 3) for layer in ("input", "middle", "final")]
    return [*smoothing_jobs(), *sweeps]


def smoothing_jobs() -> list[Job]:
    """The runs of the smoothing study: every kernel from one map."""
    methods = (InputXGradient(), IntegratedGradients(steps=8))
    options = _options(2, "input", kernel_sizes=KERNELS, keep_maps="none")
    return [Job(f"{name}-smoothing", (name,), methods, options, 1) for name in NETWORKS]


def _sweep(name: str, n: int, layer: str) -> Job:
    return Job(f"{name}-{n}x{n}-{layer}", (name,), _methods(layer), _options(n, layer), 0.5 if layer == "final" else 2)


def _options(n: int, layer: str, **options: object) -> SweepOptions:
    settings: dict[str, object] = {
        "layers": (layer,),
        "n": n,
        "grids": _GRIDS,
        "same_class_grids": _GRIDS,
        "shard_size": 2,
    }
    return SweepOptions(reuse=True, **settings, **options)  # type: ignore[arg-type]


def _methods(layer: str) -> tuple[Method, ...]:
    """At the final layer, with a mean and a linear layer after it, masks cost next to nothing."""
    windows = {"input": Occlusion(window=8, stride=8), "middle": Occlusion(window=4, stride=4), "final": Occlusion()}
    rise, occlusion = RISE(masks=1000 if layer == "final" else 48), windows[layer]
    return (*_DEFAULT, IntegratedGradients(steps=8), SmoothGrad(samples=4), occlusion, rise)


def some_images(images: Labelled) -> Labelled:
    """The first images of every class."""
    of_class: dict[int, Labelled] = {}
    for path, label in images:
        of_class.setdefault(label, []).append((path, label))
    return [pair for pairs in of_class.values() for pair in pairs[:_PER_CLASS]]


def write(work: Path, out: Path) -> None:
    """Write the results of what is finished."""
    for n in (2, 3):
        jobs = [job for job in all_jobs() if job.options.grid == (n, n)]
        write_results(jobs, work / "cifar", out, f"cifar-{n}x{n}")


def main() -> None:
    """Run for as long as allowed, then write what there is."""
    chosen = arguments(__doc__)
    prepare()
    if chosen.minutes:
        images = some_images(cifar_images(chosen.data, chosen.work / "cifar10"))
        run_jobs(all_jobs(), images, chosen.data, chosen.work / "cifar", chosen.minutes)
    write(chosen.work, chosen.out)


if __name__ == "__main__":
    main()
