"""Errors a user can fix. Each message names the thing, what was found, and the fix."""


class PellucidError(ValueError):
    """Bad input. The command line prints the message on one line and exits with code 2."""


class LayerError(PellucidError):
    """No such layer, or the network cannot be cut there."""


class TargetError(PellucidError):
    """No such class, or a target that does not fit the images."""


class ModelError(PellucidError):
    """The network or its weights cannot be used as a classifier."""


class ImageError(PellucidError):
    """A file cannot be read as an image."""


class MissingExtraError(PellucidError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed: pip install 'pellucid[{extra}]'"
        )
