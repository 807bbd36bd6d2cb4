"""What the golden results are made of: numbers of every part on small inputs, by name.

The names in the result are stable; the calls follow the library. `python -m tests.golden.recording FILE` writes them.
"""

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.evaluation.sweep_support import MODEL, color_classifier, write_squares
from tests.networks import NETWORKS

import pellucid as pl
from pellucid.cli import main
from pellucid.synthetic import draw_digits, draw_images

Numbers = dict[str, np.ndarray]
NETS = ("nested_sequential", "residual", "vit")
LAYERS = ("input", "middle", "final")
OPTIONS: dict[str, dict[str, Any]] = {"RISE": {"masks": 24}, "SmoothGrad": {"samples": 4}, "Occlusion": {}}


def record() -> dict[str, Any]:
    """Every golden number: arrays by name."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    numbers: dict[str, Any] = {}
    for part in (_attribution, _settings, _concepts, _surrogate, _sweep, _commands):
        numbers |= part()
    return numbers


def _attribution() -> Numbers:
    numbers: Numbers = {}
    for net in NETS:
        classifier = pl.Classifier(NETWORKS[net](), input_size=(32, 32))
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
        numbers[f"{net}/logits"] = classifier.logits(images).detach().numpy()
        for layer in LAYERS:
            view = classifier.at(layer)
            for name, method in pl.attribution.METHODS.items():
                try:
                    explanation = method(**OPTIONS.get(name, {}))(view, images, [1, 3])
                except pl.PellucidError as error:
                    numbers[f"{net}/{layer}/{name}/refused"] = np.array(len(type(error).__name__))
                    continue
                key = f"{net}/{layer}/{name}"
                numbers[f"{key}/values"] = explanation.values.numpy()
                numbers[f"{key}/scores"] = explanation.scores.numpy()
                passes = explanation.passes
                numbers[f"{key}/passes"] = np.array(
                    [passes.prefix_forward, passes.suffix_forward, passes.suffix_backward]
                )
    return numbers


def _squares(classifier: pl.Classifier) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, *classifier.input_shape[1:], generator=generator)


def _settings() -> Numbers:
    numbers: Numbers = {}
    classifier = color_classifier()
    cells = _squares(classifier)
    grid = torch.cat([torch.cat([cells[0], cells[1]], 2), torch.cat([cells[2], cells[3]], 2)], 1)[None]
    for setting in (pl.evaluation.GridPG, pl.evaluation.DiFull, pl.evaluation.DiPart):
        grids = setting(classifier, n=2)
        numbers[f"{setting.__name__}/logits"] = grids.logits(grid).detach().numpy()
        for layer in ("input", "middle", "final"):
            target = 3 if setting is pl.evaluation.GridPG else (0, 3)
            explanation = pl.attribution.IntegratedGradients(steps=5)(grids.at(layer), grid, target)
            numbers[f"{setting.__name__}/{layer}/values"] = explanation.values.numpy()
            score = pl.evaluation.localization_score(explanation.values[:, 0], n=2, cell=0, size=grid.shape[2:])
            numbers[f"{setting.__name__}/{layer}/localization"] = np.asarray(score)
    return numbers


def _concepts() -> Numbers:
    numbers: Numbers = {}
    classifier = pl.Classifier(NETWORKS["residual"](), input_size=(32, 32))
    draw = {name: torch.stack([_tensor(p) for p in draw_images(name, 14, 32, 0)]) for name in ("striped", "dotted")}
    negatives = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(6)) + draw["striped"][:3]
    for layer in ("middle", "final"):
        view = classifier.at(layer)
        cavs = [pl.concepts.fit_cav(view, draw[name], negatives, estimator="difference", name=name) for name in draw]
        result = pl.concepts.VisualTCAV(view, cavs)(images, targets=[1, 3])
        numbers[f"visual_tcav/{layer}/maps"] = result.maps.numpy()
        numbers[f"visual_tcav/{layer}/reference"] = np.asarray(result.reference)
        numbers[f"visual_tcav/{layer}/signed"] = np.asarray(result.signed)
        for cav in cavs:
            numbers[f"cav/{layer}/{len(numbers)}"] = np.asarray(cav.direction)
        scores = pl.concepts.tcav(view, cavs, images, 1)
        numbers[f"tcav/{layer}"] = np.asarray(scores.scores)
    return numbers


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 127.5 - 1


def _digits(count: int = 4) -> list[Image.Image]:
    drawn = draw_digits(torch.tensor([3, 7, 5, 2])[:count], thickness=3.0, size=28, seed=11)
    return [Image.fromarray(digit.squeeze().round().clamp(0, 255).to(torch.uint8).numpy()) for digit in drawn]


def _surrogate() -> Numbers:
    surrogate = pl.surrogate.digit_surrogate()
    digits = surrogate.classifier.read(_digits())
    counterfactual = surrogate.counterfactual(digits, do={"thickness": 4.0})
    flip = surrogate.flip(digits[:2], "8")
    importance = surrogate.importance(digits[:2])
    return {
        "surrogate/reconstruction": surrogate.reconstruct(digits).detach().numpy(),
        "surrogate/counterfactual/images": counterfactual.images.detach().numpy(),
        "surrogate/counterfactual/after": np.asarray(counterfactual.after.detach()),
        "surrogate/flip/change": flip.change.detach().numpy(),
        "surrogate/importance/values": importance.values.detach().numpy(),
        "surrogate/graph/confidence": np.array([edge.confidence for edge in surrogate.graph.edges]),
    }


def _sweep() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        squares = write_squares(Path(folder) / "squares")
        _command(
            "evaluate", squares, "--model", MODEL, "--out", Path(folder) / "run", "--settings", "GridPG,DiFull,DiPart",
            "--layers", "input,final", "--grids", "3", "--smooth", "3", "--methods", "GradCAM,InputXGradient,LRP",
        )  # fmt: skip
        table = pl.evaluation.Run(Path(folder) / "run").table()
    times = ("seconds", "shared_seconds")
    return {f"sweep/{name}": table[name].to_pylist() for name in table.column_names if name not in times}


def _commands() -> dict[str, Any]:
    """The JSON of each command, numbers and texts, without times and places."""
    results: dict[str, Any] = {}
    with _in_a_folder() as folder:
        for number, digit in enumerate(_digits(3)):
            digit.save(folder / f"digit{number}.png")
        for name in ("striped", "dotted"):
            (folder / "textures" / name).mkdir(parents=True)
            for number, image in enumerate(draw_images(name, 12, 32, 0)):
                image.save(folder / "textures" / name / f"{number}.png")
        write_squares(folder / "squares", per_class=4)
        digits = [folder / f"digit{number}.png" for number in range(3)]
        square = folder / "squares" / "red" / "0.png"
        shared = ("--model", MODEL, "--json")
        concepts = ("--concepts", "textures", "--layers", "middle,final", *shared)
        calls: dict[str, tuple[object, ...]] = {
            "models": ("models", "--json"),
            "layers": ("layers", "--model", "digit_cnn", "--json"),
            "explain": ("explain", *digits, "--model", "digit_cnn", "--methods", "all", "--out", "maps", "--json"),
            "explain squares": ("explain", square, *shared, "--target", "red", "--methods", "LRP", "--out", "maps2"),
            "evaluate": ("evaluate", "squares", *shared, "--out", "run", "--grids", "3", "--methods", "GradCAM,LRP"),
            "concepts explain": ("concepts", "explain", square, *concepts),
            "concepts rank": ("concepts", "rank", "squares/red", "--target", "red", *concepts),
            "concepts tcav": ("concepts", "tcav", "squares/red", "--target", "red", *concepts),
            "surrogate explain": ("surrogate", "explain", "digits", digits[0], "--set", "thickness=4", "--json"),
        }
        for name, arguments in calls.items():
            results[f"command/{name}"] = json.loads(_command(*arguments))
    return results


@contextlib.contextmanager
def _in_a_folder() -> Iterator[Path]:
    before, cache = Path.cwd(), os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            os.environ.pop("XDG_CACHE_HOME")
            if cache is not None:
                os.environ["XDG_CACHE_HOME"] = cache


def _command(*arguments: object) -> str:
    """What a command prints."""
    before, output = sys.argv, io.StringIO()
    sys.argv = ["pellucid", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output):
            main()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{arguments} ended with {stop.code}") from stop
    finally:
        sys.argv = before
    return output.getvalue()


if __name__ == "__main__":
    from tests.golden.comparing import write

    write(record(), Path(sys.argv[1]))
