"""Shared fixtures: seeds, one thread, and the optional data and packages that users may not have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.torchvision_operators import declare_missing_operators
from hypothesis import settings
from tests import shapes

SHARED_DATA = Path(os.environ.get("PELLUCID_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


declare_missing_operators()
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
shapes.install()  # before pellucid is imported


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images and weights that is beside some checkouts; users do not have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data not found at {SHARED_DATA} (set PELLUCID_SHARED_DATA)")
    return SHARED_DATA
