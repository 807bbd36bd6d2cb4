"""Counterfactuals: what an image would be with contexts set to given values, and what the classifier says then."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose

from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.surrogate.causal.graph import CausalGraph
from pellucid.surrogate.explain.concept_effects import propagate_effects
from pellucid.surrogate.explain.encoded_batch import EncodedBatch, encode_batch, probabilities
from pellucid.surrogate.explain.reference_set import ReferenceSet
from pellucid.surrogate.explain.traversal import difference_map
from pellucid.surrogate.explain.validity import ControlGate, DataSupport, Fidelity, measure_fidelity
from pellucid.surrogate.model.codes import Codes
from pellucid.surrogate.surrogate import Surrogate


@dataclass(frozen=True, kw_only=True)
class Counterfactual:
    """Images as they would be, had some contexts other values.

    Attributes:
        do: context -> the value it was set to, in the table's units.
        codes: after the change.
        images: (N, C, H, W) the counterfactuals, as the surrogate generates them; `do` is measured on these.
        transferred: (N, C, H, W) the input images with the residual transferred; None where `transfer_refused`.
        before, after: (N, K) probabilities that the classifier gives to the input images and to `images`.
        reconstructed: (N, K) those that it gives to the reconstructions: `after` without any change.
        predicted: (N, K_c) the contexts as the surrogate's encoder predicts them from `images`, in the table's units.
        maps: (N, 1, H, W) where `images` differ from the reconstructions, >= 0, in input units: a map of evidence like
            any other.
        in_distribution: (N,) whether real images of the class of the input image lie near the changed concepts.
        fidelity: of the surrogate at the input images.
        transfer_refused: context -> why its change is not shown on the input images.
        notes: in words: what was never assessed.
    """

    do: Mapping[str, float]
    codes: Codes
    images: Tensor
    transferred: Tensor | None
    before: Tensor
    after: Tensor
    reconstructed: Tensor
    predicted: Tensor
    maps: Tensor
    in_distribution: Tensor
    fidelity: Fidelity
    transfer_refused: Mapping[str, str]
    notes: tuple[str, ...]


def compute_counterfactual(
    batch: EncodedBatch,
    surrogate: Surrogate,
    do: Mapping[str, float],
    reference: ReferenceSet,
    *,
    graph: CausalGraph | None = None,
    gate: ControlGate | None = None,
) -> Counterfactual:
    """Set contexts of images to values, with all else held or with their effects responding.

    Args:
        batch: N images.
        surrogate: that encoded them.
        do: context -> value in the table's units.
        reference: real images.
        graph: the perceived graph along which effects respond; None holds all else.
        gate: what is known of the contexts' control; nothing by default.

    Raises:
        PellucidError: an unknown context, a value between those of a discrete one, or an open orientation where
            effects should respond.

    >>> import torch
    >>> from pellucid.surrogate import digit_surrogate
    >>> from pellucid.synthetic import draw_digits
    >>> explainer = digit_surrogate()
    >>> digits = draw_digits(torch.tensor([3, 7]), size=32)[:, None] / 127.5 - 1
    >>> batch = explainer.encode_batch(digits)
    >>> upright = compute_counterfactual(batch, explainer.surrogate, {"slant": 0.0}, explainer.reference)
    >>> upright.images.shape, bool((upright.predicted[:, 2].abs() < 0.1).all())
    (torch.Size([2, 1, 32, 32]), True)
    """
    if unknown := sorted(set(do) - set(surrogate.context_names)):
        raise PellucidError(f"no context {unknown}; there are {list(surrogate.context_names)}")
    for name, value in do.items():
        levels = surrogate.context_levels.get(name)
        if levels and not any(isclose(value, level, rel_tol=1e-5, abs_tol=1e-6) for level in levels):
            raise PellucidError(
                f"{name} = {value:g} does not exist: its values are {', '.join(map('{:g}'.format, levels))}"
            )
    requested = _to_standard(batch, surrogate, do)
    if graph is not None:
        concepts = propagate_effects(graph, batch, requested, reference.codes)
    else:
        concepts = batch.codes.concept_coordinates().clone()
        for name, values in requested.items():
            concepts[:, surrogate.context_names.index(name)] = values
    codes = batch.codes.replace_concepts(concepts)
    gate = gate or ControlGate(tuple(surrogate.context_names))
    images = batch.decode(codes)
    moved = tuple(do) if graph is None else surrogate.context_names
    refused = {name: reason for name, reason in gate.transfer_refused.items() if name in moved}
    after = encode_batch(surrogate, images, max_batch=batch.max_batch)
    return Counterfactual(
        do=dict(do),
        codes=codes,
        images=images,
        transferred=None if refused else batch.apply_residual(images),
        before=probabilities(batch.logits),
        after=probabilities(after.logits),
        reconstructed=probabilities(batch.reconstructed().logits),
        predicted=surrogate.context_values(after.codes.context),
        maps=difference_map(batch, images),
        in_distribution=DataSupport(reference).in_distribution(concepts, batch.classes),
        fidelity=measure_fidelity(batch),
        transfer_refused=refused,
        notes=gate.notes(do),
    )


def _to_standard(batch: EncodedBatch, surrogate: Surrogate, do: Mapping[str, float]) -> dict[str, Tensor]:
    """Context -> (N,) values in standard deviations."""
    values = surrogate.context_values(batch.codes.context).clone()
    columns = {name: surrogate.context_names.index(name) for name in do}
    for name, column in columns.items():
        values[:, column] = do[name]
    standard = surrogate.standard_context(values)
    return {name: standard[:, column] for name, column in columns.items()}
