"""One training over two processes, as torchrun starts them (gloo, CPU)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pellucid.surrogate.training.checkpoint import TrainingFolder
from pellucid.surrogate.training.distributed import (
    all_gather,
    average_gradients,
    is_main_process,
    world_size,
)

PROGRAM = """
import json, sys
import torch
from pellucid.surrogate import train
from pellucid.surrogate.training.distributed import average_gradients, join_processes, process_rank
from tests.surrogate.support import bars, classifier_of, small_cnn
from tests.surrogate.test_checkpoint import TINY

torch.set_num_threads(1)
join_processes()
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.tensor([1.0, 10.0]) * (1 + process_rank())
average_gradients([weight])
data = bars(64, 0, 0.5)
surrogate = train(classifier_of(small_cnn()), data.images, data.context, TINY, sys.argv[1], on_progress=None)
sums = {name: float(value.double().sum()) for name, value in surrogate.surrogate.networks.state_dict().items()}
with open(f"{sys.argv[1]}-{process_rank()}.json", "w") as file:
    json.dump({"gradient": weight.grad.tolist(), "sums": sums}, file)
torch.distributed.destroy_process_group()
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_two_processes_train_one_surrogate(tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common["OMP_NUM_THREADS"] = "1"
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(out)], env={**common, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    first, second = (json.loads((tmp_path / f"run-{rank}.json").read_text()) for rank in (0, 1))
    assert first["gradient"] == second["gradient"] == [1.5, 15.0]
    assert first["sums"] == second["sums"]
    notes, tensors = TrainingFolder(out).last()
    assert notes["steps"] == 8
    assert not torch.equal(tensors["random.0"], tensors["random.1"])
    assert json.loads((out / "run.json").read_text())["processes"] == 2


def test_alone_nothing_is_averaged() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    average_gradients([weight])
    assert weight.grad.tolist() == [1.0, 1.0]
    assert world_size() == 1
    assert is_main_process()
    assert all_gather(weight.grad).shape == (1, 2)
