"""Assess the surrogate that comes with pellucid once more, on the digits that it was not trained on.

python -m experiments.surrogate.digits.assess_pretrained --data DIR

Writes its `assessment.json`; needed when an assessment holds something new, and the surrogate is the same.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from experiments.surrogate.digits.data import TRAINING, input_of
from experiments.surrogate.digits.train import MORPHOMETRY
from experiments.surrogate.shared.idx import read_mnist
from pellucid.storage import to_record, write_json
from pellucid.surrogate import SurrogateExplainer, digit_measure, load, pretrained_folder

_MARGIN = 2  # from 28 to 32 pixels


def main() -> None:
    """Assess and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with morphomnist_ti")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    explainer = _without_assessment()
    gray = F.pad(read_mnist(chosen.data / "morphomnist_ti", "t10k")[0].float(), (_MARGIN,) * 4)
    assessment = explainer.assess(
        input_of(gray[TRAINING:]), digit_measure(explainer.surrogate), measured_by=MORPHOMETRY
    )
    write_json(pretrained_folder("digits") / "assessment.json", to_record(assessment))
    for one, other in zip(assessment.controls, assessment.transferred_controls, strict=True):
        print(f"{one.concept}: {one.effectiveness:.3f} generated, {other.effectiveness:.3f} with residual transferred")


def _without_assessment() -> SurrogateExplainer:
    import pellucid as pl

    folder = pretrained_folder("digits")
    (folder / "assessment.json").unlink(missing_ok=True)
    return load(folder, classifier=pl.load("digit_cnn"))


if __name__ == "__main__":
    main()
