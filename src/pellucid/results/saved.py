"""Results on disk, of every kind: `result.json` (kind, schema version, record) and `tensors.safetensors`."""

import os
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.errors import PellucidError
from pellucid.results.result import SCHEMA_VERSION, Result
from pellucid.storage import (
    RecordError,
    decode_json,
    encode_json,
    from_record,
    read_tensors,
    to_record,
    write_atomically,
    write_tensors,
)

RECORD, TENSORS = "result.json", "tensors.safetensors"

KINDS: dict[str, str] = {
    "attribution": "pellucid.attribution:Explanation",
    "concepts": "pellucid.concepts:ConceptExplanation",
    "class_concepts": "pellucid.concepts:ClassExplanation",
    "tcav": "pellucid.concepts:TCAVResult",
    "surrogate_global": "pellucid.surrogate:GlobalExplanation",
    "surrogate_local": "pellucid.surrogate:LocalExplanation",
}
"""kind -> "module:class"; a class is imported when a result of its kind is loaded."""


class ResultError(PellucidError):
    """A folder holds no result, or one that cannot be read."""


def class_of_kind(kind: str, source: str) -> "type[Result]":
    """The class of a kind of result.

    Args:
        kind: a key of `KINDS`.
        source: where the kind was read, for the error.

    Raises:
        ResultError: no such kind.

    >>> class_of_kind("attribution", "result.json").__name__
    'Explanation'
    """
    if kind not in KINDS:
        raise ResultError(f"{source}: unknown kind of result {kind!r}; this version knows {', '.join(sorted(KINDS))}")
    module, _, name = KINDS[kind].partition(":")
    result_class: type[Result] = getattr(import_module(module), name)
    return result_class


def save(result: Result, folder: str | os.PathLike[str]) -> Path:
    """Write a result into a folder.

    `result.json` is written last and holds the digest of the tensors: a folder with it holds the whole result, one
    without it holds none, wherever the writing was interrupted.

    Args:
        result: of a kind that `KINDS` knows.
        folder: made if missing; a result already there is replaced, other files stay.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    class_of_kind(result.kind, type(result).__name__)
    tensors: dict[str, Tensor] = {}
    record = to_record(result.recordable(), tensors)
    whole: dict[str, Any] = {"kind": result.kind, "schema_version": SCHEMA_VERSION, "record": record}
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{TENSORS}.{os.getpid()}.part"
    try:
        if tensors:
            write_tensors(fresh, tensors)
            whole["tensors_sha256"] = _digest(fresh)
        text = encode_json(whole)
        (folder / RECORD).unlink(missing_ok=True)
        if tensors:
            fresh.replace(folder / TENSORS)
        else:
            (folder / TENSORS).unlink(missing_ok=True)
        write_atomically(folder / RECORD, text)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
    return folder


def load(folder: str | os.PathLike[str]) -> Result:
    """Load what `save` wrote, of whatever kind.

    Args:
        folder: as given to `save`.

    Returns:
        A result equal to the one saved; its tensors lie on the CPU.

    Raises:
        ResultError: the folder holds no result, one of an unknown kind or of a newer pellucid, or a damaged file.

    >>> load("no/such/folder")
    Traceback (most recent call last):
    pellucid.results.saved.ResultError: no/such/folder holds no result: there is no result.json in it
    """
    folder = Path(folder)
    whole = _read(folder)
    source = str(folder / RECORD)
    version = whole.get("schema_version")
    if not isinstance(version, int):
        raise ResultError(f"{source} is damaged: it has no schema_version; save the result again")
    if version > SCHEMA_VERSION:
        raise ResultError(
            f"{source} has schema version {version}, and this version of pellucid reads up to {SCHEMA_VERSION}: "
            "update pellucid to load it"
        )
    kind = class_of_kind(str(whole.get("kind")), source)
    tensors = _read_tensors(folder, whole.get("tensors_sha256"))
    try:
        return from_record(kind, whole["record"], tensors=tensors, source=source)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ResultError):
            raise
        raise ResultError(f"{source} is damaged ({error}); save the result again") from error


def _read(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    try:
        whole = decode_json(file.read_bytes(), file)
    except (FileNotFoundError, NotADirectoryError):
        raise ResultError(f"{folder} holds no result: there is no {RECORD} in it") from None
    except RecordError as error:
        raise ResultError(f"{error}: save the result again") from error
    if not isinstance(whole, dict):
        raise ResultError(f"{file} is damaged: it holds a {type(whole).__name__}; save the result again")
    return whole


def _read_tensors(folder: Path, digest: object) -> dict[str, Tensor]:
    """The tensors that belong to the record; none where it names none."""
    if digest is None:
        return {}
    file = folder / TENSORS
    try:
        if _digest(file) != digest:
            raise ResultError(f"{file} is damaged: it is not the file that {RECORD} names; save the result again")
        return read_tensors(file)
    except FileNotFoundError:
        raise ResultError(f"{file} is missing, and {RECORD} needs it; save the result again") from None
    except ResultError:
        raise
    except PellucidError as error:
        raise ResultError(str(error)) from error


def _digest(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()
