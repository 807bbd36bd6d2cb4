"""Lets a torchvision that was built for another torch import: two compiled operators are missing, and unused here."""

import torch

__all__ = ["declare_missing_operators"]

_libraries: list[torch.library.Library] = []  # declarations live as long as their library


def declare_missing_operators() -> None:
    """Declare what `import torchvision` and `import timm` look for, if they cannot be imported without."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    except ImportError:
        pass
