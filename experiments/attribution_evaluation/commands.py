"""What the commands of the experiments share."""

import argparse
from pathlib import Path

import torch
from benchmarks.torchvision_operators import declare_missing_operators

RESULTS = Path(__file__).parent / "results"


def arguments(description: str | None) -> argparse.Namespace:
    """The arguments of every experiment: `data`, `work`, `out` and `minutes`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images and weights")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs; outside the repository")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=60, help="time for new runs; 0 only writes the results")
    return parser.parse_args()


def prepare() -> None:
    """One thread, so that times can be compared, and a torchvision that can be imported."""
    torch.set_num_threads(1)
    declare_missing_operators()
