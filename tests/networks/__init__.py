"""Small networks in plain torch with the wirings of real ones, for every test that needs one.

`NETWORKS` maps names to factories. A factory always returns a network with the same weights, in eval mode, with
non-trivial batch-norm statistics, and leaves the global random state alone. Images have `input_shape(name)`;
networks in `FIXED_SIZE` take no other size, those in `UNTRACEABLE` cannot be traced with torch.fx.
"""

import torch
from tests.networks import branches, crossing, in_place, interfaces, plain, tokens, untraceable  # noqa: F401
from tests.networks.parts import CLASSES, NETWORKS
from torch import Tensor

__all__ = ["CLASSES", "FIXED_SIZE", "NETWORKS", "UNTRACEABLE", "images", "input_shape"]

FIXED_SIZE = {"flatten_head", "vit", "vit_mean", "vit_two_tokens", "vit_five_tokens", "sequence_first", "windows"}
UNTRACEABLE = {
    *("control_flow", "control_flow_in_place", "own_outputs", "loop", "remembers", "view_in_place"),
    *("asks_for_a_tensor", "augmented_assignment", "writes_by_index"),
}


def input_shape(name: str) -> tuple[int, int, int]:
    """(C, H, W) of the images that the network is made for."""
    return (1, 32, 32) if name == "gray" else (3, 32, 32)


def images(name: str, count: int = 3, seed: int = 0) -> Tensor:
    """Random images (count, C, H, W): not square, unless the network insists on its own size."""
    channels, *size = input_shape(name)
    size = size if name in FIXED_SIZE else [40, 24]
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(100 + seed))
