"""The twin that comes with pellucid, of the digit classifier `digit_cnn`: something to ask at once."""

from pathlib import Path

from pellucid.surrogate.surrogate import SurrogateExplainer, load

DIGITS = "digits"


def pretrained_folder(name: str) -> Path:
    """Where a twin of that name would lie in the package."""
    return Path(__file__).with_name("twins") / name


def digit_surrogate(device: str | None = None) -> SurrogateExplainer:
    """The twin of `pellucid.load("digit_cnn")`, trained on Morpho-MNIST by `experiments/surrogate/train_digits.py`.

    It knows thickness, intensity, slant and width, and has its marks and its graphs.

    Args:
        device: where it runs.
    """
    from pellucid.classifiers import load as load_classifier

    return load(pretrained_folder(DIGITS), classifier=load_classifier("digit_cnn", device=device))
