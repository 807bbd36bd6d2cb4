"""The public interface, and what importing it costs."""

import subprocess
import sys

import pytest

import pellucid as pl

METHODS = {
    *(
        "Gradient",
        "InputXGradient",
        "GuidedBackprop",
        "IntegratedGradients",
        "SmoothGrad",
        "GradCAM",
        "GradCAMPlusPlus",
    ),
    *("LayerCAM", "AblationCAM", "ScoreCAM", "Occlusion", "RISE", "LRP"),
}


def test_no_public_name_vanishes() -> None:
    assert {"Classifier", "PellucidError", "attribution", "classifiers", "data", "load"} <= set(pl.__all__)
    for name in pl.__all__:
        assert getattr(pl, name) is not None
    assert set(pl.attribution.METHODS) == METHODS
    for name in [*METHODS, "Target", "smooth", "Smoothed", "Explanation", "Method"]:
        assert hasattr(pl.attribution, name)
    for name in ("read_image", "find_images", "Preprocess", "Geometry", "probe_geometry"):
        assert hasattr(pl.data, name)
    for name in ("GridPG", "DiFull", "DiPart", "localization_score", "agg_att", "evaluate", "Run"):
        assert hasattr(pl.evaluation, name)
    for name in ("fit_cav", "CAV", "VisualTCAV", "concept_map", "reference_attribution", "tcav"):
        assert hasattr(pl.concepts, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        pl.explode  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import pellucid", ("torch", "numpy", "PIL", "matplotlib")),
        ("import pellucid.cli", ("torch", "matplotlib", "jinja2")),
        (
            "import pellucid; pellucid.load, pellucid.attribution, pellucid.data",
            ("matplotlib", "torchvision", "timm", "jinja2", "skimage"),
        ),
    ],
)
def test_importing_stays_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
