"""Three settings, three layers, all methods, on three ImageNet classifiers.

python -m experiments.attribution_evaluation.imagenet --data DIR --work DIR [--minutes 60] [--out DIR]

The same command again goes on with the runs in `--work`. Cheap methods see more grids than those that run the network
hundreds of times; the grids are the same.
"""

from pathlib import Path

from experiments.attribution_evaluation.commands import arguments, prepare
from experiments.attribution_evaluation.images import Labelled, imagenet_images
from experiments.attribution_evaluation.results import write_mean_maps, write_results
from experiments.attribution_evaluation.sweeps import Job, run_jobs, sure_images
from pellucid.attribution import (
    LRP,
    RISE,
    AblationCAM,
    GradCAM,
    GradCAMPlusPlus,
    Gradient,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Method,
    Occlusion,
    ScoreCAM,
    SmoothGrad,
)
from pellucid.evaluation import SweepOptions

NETWORKS = ("efficientnet_lite0", "mobilenet_v2", "squeezenet")
THRESHOLD = 0.8
"""These networks are hardly ever surer than 0.99: two were trained with smoothed labels."""
KERNELS = (5, 9, 17, 33, 65, 129)
"""For maps of 256 x 256; the paper has 9 to 257 for 448 x 448."""

_GRIDS = {"grids": 12, "same_class_grids": 12, "threshold": THRESHOLD, "shard_size": 1}
_STEPS = 8
_SHARES = (("final", 1), ("input", 4), ("middle", 5))  # of the time
_GRADIENTS: tuple[Method, ...] = (
    Gradient(),
    InputXGradient(),
    GuidedBackprop(),
    SmoothGrad(samples=4),
    GradCAM(),
    GradCAMPlusPlus(),
    LayerCAM(),
    LRP(),
)


def all_jobs() -> list[Job]:
    """Every run, in the order in which they are worth having."""
    jobs = [
        _job(name, layer, _methods(layer, name), layers=(layer,), share=share)
        for layer, share in _SHARES
        for name in NETWORKS
    ]
    score_cam = [_job(name, "score_cam", (ScoreCAM(),), layers=("final",), share=2) for name in NETWORKS]
    return [*jobs, *smoothing_jobs(), _randomized(NETWORKS[0]), *score_cam]


def smoothing_jobs() -> list[Job]:
    """The runs of the smoothing study: every kernel from one map."""
    methods = (InputXGradient(), IntegratedGradients(steps=_STEPS))
    return [
        _job(name, "smoothing", methods, layers=("input",), kernel_sizes=KERNELS, keep_maps="none", share=3)
        for name in NETWORKS
    ]


def _job(model: str, name: str, methods: tuple[Method, ...], *, share: float, **options: object) -> Job:
    return Job(f"{model}-{name}", (model,), methods, SweepOptions(**_GRIDS, **options), share)  # type: ignore[arg-type]


def _methods(layer: str, model: str) -> tuple[Method, ...]:
    """What is affordable at a layer.

    At the input the integrated gradients are those of the smoothing study; Score-CAM at the final layer, whose hundreds
    of channels are as many passes of the whole network, has runs of its own. With a mean and a linear layer after the
    final map, masks cost next to nothing there; SqueezeNet has a ReLU in between. Occlusion's window there is 3 of the
    4 cells of the map that a cell of the grid has; the paper's is 5 of 7.
    """
    if layer == "final":
        rise = RISE(masks=48 if model == "squeezenet" else 1000)
        return (*_GRADIENTS, IntegratedGradients(steps=_STEPS), AblationCAM(), Occlusion(window=3, stride=1), rise)
    window = 32 if layer == "input" else 4  # an eighth of the grid's side
    others = (AblationCAM(), ScoreCAM(), Occlusion(window=window, stride=window), RISE(masks=48))
    integrated = () if layer == "input" else (IntegratedGradients(steps=_STEPS),)
    return (*_GRADIENTS, *integrated, *others)


def _randomized(model: str) -> Job:
    """Half of the layers forgotten, then all."""
    options = SweepOptions(
        settings=("GridPG",), grids=6, threshold=THRESHOLD, randomize=2, keep_maps="none", shard_size=1
    )
    return Job(
        f"{model}-randomized", (model,), tuple(m for m in _GRADIENTS if not isinstance(m, SmoothGrad)), options, 3
    )


def sure(data: Path, work: Path) -> Labelled:
    """The images of the grids: those that all three networks are sure of, some of them."""
    file = work / "imagenet_images.json"
    images = imagenet_images(data)
    return sure_images(NETWORKS, images, data, file, threshold=THRESHOLD, per_class=4, most=50)


def write(work: Path, out: Path) -> None:
    """Write the results of what is finished."""
    jobs = all_jobs()
    write_results(jobs, work / "imagenet", out, "imagenet")
    for name in NETWORKS:
        own = [job for job in jobs if job.models == (name,)]
        write_mean_maps(own, work / "imagenet", out, name)


def main() -> None:
    """Run for as long as allowed, then write what there is."""
    chosen = arguments(__doc__)
    prepare()
    if chosen.minutes:
        run_jobs(all_jobs(), sure(chosen.data, chosen.work), chosen.data, chosen.work / "imagenet", chosen.minutes)
    write(chosen.work, chosen.out)


if __name__ == "__main__":
    main()
