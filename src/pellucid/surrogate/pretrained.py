"""The surrogate that comes with pellucid, of the digit classifier `digit_cnn`: explanations without any training."""

from pathlib import Path

from pellucid.surrogate.explainer import SurrogateExplainer, load

DIGITS = "digits"


def pretrained_folder(name: str) -> Path:
    """Where a surrogate of that name would lie in the package.

    >>> pretrained_folder("digits").name
    'digits'
    """
    return Path(__file__).with_name("pretrained_models") / name


def digit_surrogate(device: str | None = None) -> SurrogateExplainer:
    """Load the surrogate of `pellucid.load("digit_cnn")`, trained on Morpho-MNIST.

    It knows thickness, intensity, slant and width, and comes with its reference, its assessment and its graphs.

    Args:
        device: where it runs.

    >>> digit_surrogate().context_names
    ('thickness', 'intensity', 'slant', 'width')
    """
    from pellucid.classifiers import load as load_classifier

    return load(pretrained_folder(DIGITS), classifier=load_classifier("digit_cnn", device=device))
