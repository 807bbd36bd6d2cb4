"""All that is fixed before the twin is trained: pictures and their versions, contexts, instruments, what f sees."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pellucid.classifiers.randomize import initialised_anew, with_network
from pellucid.errors import ModelError, PellucidError
from pellucid.storage import write_atomically
from pellucid.storage.tensors import read_tensors, write_tensors
from pellucid.surrogate.model import packed
from pellucid.surrogate.model.attribute_predictors import Rerender, fit_judges, in_chunks
from pellucid.surrogate.model.auxiliary_models import Instruments, Quality, scale_of
from pellucid.surrogate.model.features import LOGITS_ONLY, Features
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.probes import fit_perception, perceived_share
from pellucid.surrogate.training.checkpoint import CheckpointError
from pellucid.surrogate.training.distributed import is_first, wait_for_all
from pellucid.surrogate.training.image_datasets import Held, Pictures, Stacked
from pellucid.surrogate.training.sampling import decorrelating_weights, mixed
from pellucid.surrogate.training.training_options import TrainingOptions

INSTRUMENTS, QUALITY, VERSIONS = "instruments.safetensors", "quality.json", "versions.safetensors"


@dataclass(frozen=True)
class Prepared:
    """The training set; rows are the N given pictures, then version after version of all of them.

    Attributes:
        pictures: in display space.
        given: N.
        weights: (M,), of the draws.
        codes: (M, K_c), the standardised context that the judges see.
        phi: (M, F), standardised features of the classifier.
        logits: (M, K).
        span: (2, K_c), the 2 % and 98 % quantiles of the codes of all rows: where interventions go.
        instruments, quality: see there.
    """

    pictures: Pictures
    given: int
    weights: Tensor
    codes: Tensor
    phi: Tensor
    logits: Tensor
    span: Tensor
    instruments: Instruments
    quality: Quality

    @property
    def versions(self) -> int:
        """How many versions of each picture there are, itself included."""
        return len(self.weights) // self.given


def prepare(
    given: Pictures,
    context: Tensor,
    space: DisplaySpace,
    features: Features,
    options: TrainingOptions,
    out: Path,
    rerender: Rerender | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Draw the versions, fit the instruments (both kept in `out`, and read from there if they are) and look at all.

    Args:
        given: the training pictures.
        context: (N, K_c), in the table's units.
        space: display space of the pictures.
        features: the classifier and what it sees.
        options: of the training.
        out: folder of the run.
        rerender: draws versions with other contexts.
        say: told what is being done.

    Raises:
        PellucidError: the classifier answers the same to all, or the re-renderer gives something else.
    """
    pictures, table = _with_versions(given, context, space, options, out, rerender, say)
    rows = torch.arange(len(pictures))
    say(f"looking at {len(rows)} pictures through the classifier")
    phi, logits = _seen(features, pictures, space, rows)
    _refuse_constant(logits[: len(given)], features)
    weights = _weights(table, len(given), options)
    instruments, quality = _instruments(pictures, table, phi, weights, given, options, features, space, out, say)
    device = features.classifier.device
    codes = in_chunks(instruments.judges, pictures, rows, device)
    span = _span(codes[weights > 0])
    standard = instruments.standard_phi(phi.to(device)).cpu()
    return Prepared(pictures, len(given), weights, codes, standard, logits, span, instruments, quality)


def _with_versions(
    given: Pictures,
    context: Tensor,
    space: DisplaySpace,
    options: TrainingOptions,
    out: Path,
    rerender: Rerender | None,
    say: Callable[[str], None],
) -> tuple[Pictures, Tensor]:
    """All rows and their context; NaN where a version's could not be told."""
    if rerender is None or not options.copies or not context.shape[1]:
        return given, context
    path = out / VERSIONS
    if is_first() and not path.exists():
        random = torch.Generator().manual_seed(options.seed + 2)
        drawn: list[tuple[Tensor, Tensor]] = []
        for copy in range(options.copies):
            for rows in torch.split(torch.arange(len(given)), 256):
                drawn.append(_redrawn(rerender, space.back(given[rows]), context.shape[1], random))
                say(f"re-rendering {copy * len(given) + int(rows[-1]) + 1} of {options.copies * len(given)} pictures")
        pictures, table = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        write_tensors(path, {"pictures": pictures, "context": table})
    wait_for_all()
    found = read_tensors(path)
    return Stacked([given, Held(space.show(found["pictures"]))]), torch.cat([context, found["context"]])


def _redrawn(rerender: Rerender, pictures: Tensor, contexts: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    drawn, context = rerender(pictures, random)
    if drawn.shape != pictures.shape or context.shape != (len(pictures), contexts):
        raise PellucidError(
            f"the re-renderer returned pictures {tuple(drawn.shape)} and context {tuple(context.shape)} for "
            f"{tuple(pictures.shape)}; it must return as many pictures of that size and ({len(pictures)}, {contexts})"
        )
    return drawn.float(), context.float()


def _seen(features: Features, pictures: Pictures, space: DisplaySpace, rows: Tensor) -> tuple[Tensor, Tensor]:
    width = features.length

    def look(shown: Tensor) -> Tensor:
        seen = features(space.back(shown))
        return torch.cat([seen.phi, seen.logits], dim=1)

    found = in_chunks(look, pictures, rows, features.classifier.device)
    return found[:, :width], found[:, width:]


def _span(codes: Tensor) -> Tensor:
    """(2, K_c), from at most 100,000 rows: torch.quantile takes no more."""
    every = max(1, -(-len(codes) // 100_000))
    bounds = torch.tensor([0.02, 0.98])
    return torch.quantile(codes[::every], bounds, dim=0) if codes.shape[1] else codes.new_zeros(2, 0)


def _refuse_constant(logits: Tensor, features: Features) -> None:
    if not bool(logits.isfinite().all()):
        raise ModelError(f"{features.classifier.name} gives NaN or infinite logits for some training pictures")
    if float(logits.std(0).max()) < 1e-5:
        raise ModelError(
            f"{features.classifier.name} gives all {len(logits)} pictures the same logits: there is nothing to explain"
        )


def _weights(table: Tensor, given: int, options: TrainingOptions) -> Tensor:
    """Half of the draws from the given pictures, half from all; in both, contexts look independent."""
    usable = table.isfinite().all(1)
    flat = torch.zeros(len(table))

    def over(rows: Tensor) -> Tensor:
        weights = flat.clone()
        weights[rows] = decorrelating_weights(table[rows]) if options.decorrelate else 1.0
        return weights

    real = over(torch.arange(given))
    if len(table) == given:
        return real
    return mixed([(options.real_share, real), (1 - options.real_share, over(usable.nonzero()[:, 0]))])


def _instruments(
    pictures: Pictures,
    table: Tensor,
    phi: Tensor,
    weights: Tensor,
    given: Pictures,
    options: TrainingOptions,
    features: Features,
    space: DisplaySpace,
    out: Path,
    say: Callable[[str], None],
) -> tuple[Instruments, Quality]:
    """Fit and keep them, unless they are kept already."""
    device = features.classifier.device
    channels = pictures[torch.tensor([0])].shape[1]
    instruments = Instruments(channels, features.length, table.shape[1], options)
    if is_first() and not (out / INSTRUMENTS).exists():
        instruments.set_scales(table[: len(given)], phi[: len(given)])
        quality = _fit(instruments, pictures, table, phi, weights, len(given), options, device, say)
        if table.shape[1] and any(True for _ in features.classifier.module.parameters()):
            say("reading context from the features of the classifier with random weights")
            context = instruments.standard_context(table[: len(given)])
            quality = replace(quality, blind=_blind(features, given, context, space, options))
        write_atomically(out / QUALITY, json.dumps(asdict(quality), indent=1).encode())
        write_tensors(out / INSTRUMENTS, instruments.state_dict())
    wait_for_all()
    instruments.load_state_dict(read_tensors(out / INSTRUMENTS))
    packed(instruments, device)
    return instruments, _read_quality(out / QUALITY)


def _read_quality(path: Path) -> Quality:
    try:
        return Quality.from_record(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version of pellucid ({error!r}): delete it and {INSTRUMENTS} beside it, "
            "and they are made again"
        ) from error


def _fit(
    instruments: Instruments,
    pictures: Pictures,
    table: Tensor,
    phi: Tensor,
    weights: Tensor,
    given: int,
    options: TrainingOptions,
    device: torch.device,
    say: Callable[[str], None],
) -> Quality:
    if not table.shape[1]:
        return Quality((), (), ())
    context = instruments.standard_context(table)
    say(f"training {options.judges} judges of context")
    family = torch.arange(len(table)) % given
    judges, judged = fit_judges(pictures, context, family, weights, options, device)
    instruments.judges.load_state_dict(judges.state_dict())
    say("reading context from the classifier's features")
    perception, unseen = fit_perception(
        instruments.standard_phi(phi[:given]), context[:given], steps=options.judge_steps, seed=options.seed + 3
    )
    instruments.perception.load_state_dict(perception.state_dict())
    return Quality(tuple(map(tuple, judged.tolist())), perceived_share(unseen, context[:given]), ())


def _blind(
    features: Features, given: Pictures, context: Tensor, space: DisplaySpace, options: TrainingOptions
) -> tuple[float, ...]:
    """R^2 of the context read, in the same way, from a classifier of this architecture that learnt nothing."""
    forgotten = initialised_anew(features.classifier.module, seed=options.seed)
    blind = Features(
        with_network(features.classifier, forgotten), LOGITS_ONLY if features.black_box else features.layers
    )
    phi, _ = _seen(blind, given, space, torch.arange(len(given)))
    mean, std = scale_of(phi)
    _, unseen = fit_perception((phi - mean) / std, context, steps=options.judge_steps, seed=options.seed + 3)
    return perceived_share(unseen, context)
