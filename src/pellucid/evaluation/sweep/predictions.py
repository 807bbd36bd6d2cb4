"""Which images a model is sure of: every image of a data set is classified once, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.data import ImageFailure, read_images
from pellucid.errors import ImageError, ModelError
from pellucid.evaluation.grids import Candidate
from pellucid.evaluation.sweep.arrow import arrow
from pellucid.evaluation.sweep.dataset import DataSet

if TYPE_CHECKING:
    import pyarrow as pa


_NOT_FINITE = "the network gives NaN or infinite logits"


@torch.no_grad()
def predict(classifier: Classifier, data: DataSet, start: int, stop: int, max_batch: int) -> pa.Table:
    """Classify images `start` to `stop` of a data set.

    Returns:
        One row per image: path, label, predicted, confidence (softmax probability of the predicted class), and the
        reason why there is no prediction, else null.
    """
    rows = []
    numbered = _inputs(classifier, data, range(start, stop))
    while batch := list(islice(numbered, max_batch)):
        inputs = [image for _, image in batch if isinstance(image, Tensor)]
        outcomes = iter(_most_probable(classifier.logits(torch.stack(inputs)))) if inputs else iter(())
        for index, image in batch:
            predicted, confidence, reason = (None, None, image) if isinstance(image, str) else next(outcomes)
            rows.append((data.files[index], data.labels[index], predicted, confidence, reason))
    columns = zip(*rows, strict=True)
    return arrow().table(dict(zip(_schema().names, map(list, columns), strict=True)), schema=_schema())


def confident_candidates(table: pa.Table, threshold: float) -> tuple[Candidate, ...]:
    """The images that were classified correctly with at least this probability."""
    return tuple(
        Candidate(row["label"], row["path"], row["confidence"])
        for row in table.to_pylist()
        if row["reason"] is None and row["predicted"] == row["label"] and row["confidence"] >= threshold
    )


def unusable_images(tables: Iterable[pa.Table]) -> list[ImageFailure]:
    """The images without a prediction, each once, with the reason."""
    found = {row["path"]: row["reason"] for table in tables for row in table.to_pylist() if row["reason"] is not None}
    return [ImageFailure(path, reason) for path, reason in found.items()]


def _inputs(classifier: Classifier, data: DataSet, indices: Sequence[int]) -> Iterator[tuple[int, Tensor | str]]:
    """Each image's index with the network's input, or with the reason why there is none."""
    if classifier.preprocess is None:
        raise ModelError(f"classifier {classifier.name!r} was made without preprocess=, so it cannot read image files")
    paths = [data.root / data.files[index] for index in indices]
    for index, (_, image) in zip(indices, read_images(paths), strict=True):
        if isinstance(image, ImageFailure):
            yield index, image.reason
            continue
        try:
            yield index, classifier.preprocess(image)
        except ImageError as error:
            yield index, str(error)


def _most_probable(logits: Tensor) -> list[tuple[int | None, float | None, str | None]]:
    confidence, predicted = logits.double().softmax(1).max(1)
    finite = logits.isfinite().all(1)
    return [
        (guess, sure, None) if usable else (None, None, _NOT_FINITE)
        for guess, sure, usable in zip(predicted.tolist(), confidence.tolist(), finite.tolist(), strict=True)
    ]


def _schema() -> pa.Schema:
    pa = arrow()
    return pa.schema(
        {
            "path": pa.string(),
            "label": pa.int32(),
            "predicted": pa.int32(),
            "confidence": pa.float64(),
            "reason": pa.string(),
        }.items()
    )
