"""timm's classifiers with their published preprocessing."""

import importlib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pellucid.classifiers.loading.loaded_model import (
    FACTORY,
    LoadedModel,
    imagenet_class_names,
    import_library,
    load_or_leave_random,
    unknown_name_error,
)
from pellucid.data import Preprocess
from pellucid.errors import ModelError


def load_timm(architecture: str, weights: str | Path | None) -> LoadedModel:
    """An architecture of timm.

    Args:
        architecture: such as "resnet50.a1_in1k".
        weights: a file, "random", or None for the published ones in the cache.

    Raises:
        MissingExtraError: timm is not installed.
        ModelError: no such architecture or weights, or a preprocessing that is not known.
    """
    timm = import_library("timm")
    if not timm.is_model(architecture):
        raise unknown_name_error("timm classifier", architecture, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    except RuntimeError as error:
        raise ModelError(f"no timm classifier {architecture!r}: {error}") from error
    if not config.num_classes:
        raise ModelError(f"timm:{architecture} has no classification head; add one to it in a {FACTORY}")
    published = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    preprocess = _make_preprocess(architecture, published)
    build = partial(timm.create_model, architecture, pretrained=False)
    if weights is not None:
        return load_or_leave_random(build, weights, preprocess, classes=config.num_classes)
    # Only the tag says what a published set was trained on last.
    names = imagenet_class_names() if config.num_classes == 1000 and "in1k" in (config.tag or "") else None
    loaded = load_or_leave_random(
        build, _find_cached(config), preprocess, classes=config.num_classes, class_names=names
    )
    return replace(loaded, origin=config.tag)


def _make_preprocess(architecture: str, config: Mapping[str, Any]) -> Preprocess:
    _, height, width = config["input_size"]
    fraction, mode = config["crop_pct"], config["crop_mode"]
    squashes = mode == "squash" and fraction == 1  # the whole image, whatever its proportions
    if not squashes and (mode != "center" or height != width):
        raise ModelError(
            f"timm:{architecture} wants images prepared in a way that pellucid does not know (crop_mode "
            f"{mode!r} at crop_pct {fraction}, input {height}x{width}); make a Classifier with a "
            "preprocess of your own"
        )
    return Preprocess(
        input_size=(height, width),
        resize=None if squashes else math.floor(height / fraction),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _find_cached(config: Any) -> Path:
    hub = importlib.import_module("huggingface_hub")
    file = hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    if isinstance(file, str):
        return Path(file)
    name = f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    raise ModelError(
        f"the published weights of timm:{name} are not in the cache {hub.constants.HF_HUB_CACHE}, and "
        f"pellucid downloads nothing: fetch them with timm.create_model({name!r}, pretrained=True), give "
        'weights=FILE, or weights="random" for an untrained network'
    )
