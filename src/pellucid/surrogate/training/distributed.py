"""One training over several processes, as torchrun starts them.

Each process draws its own batches and all average their gradients before a step. Gradients are averaged by hand and not
by wrapping each network in DistributedDataParallel: several networks take part in one loss, some of them frozen for one
term only and others run several times in a step, which the wrapper does not allow. What is communicated is the same.
"""

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from pellucid.errors import PellucidError


def join_processes() -> None:
    """Join the processes that torchrun started, if it did and they have not been joined yet.

    Each takes a GPU of its own, which is from then on what "cuda" means: join before anything is put on one.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and distributed.is_available() and not distributed.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(_own_gpu())
        # Others wait while the first re-renders and fits the auxiliary models, which may take hours.
        distributed.init_process_group(backend, timeout=timedelta(days=7))


def check_own_gpu(device: torch.device) -> None:
    """Refuse a classifier on a GPU that is not this process's own.

    Raises:
        PellucidError: It is on that of another process.
    """
    if world_size() > 1 and device.type == "cuda" and (device.index or 0) != _own_gpu():
        raise PellucidError(
            f"process {process_rank()} has its classifier on {device}, and should have it on GPU {_own_gpu()}: call "
            "pellucid.surrogate.training.join_processes() before the classifier is loaded, and load it on 'cuda'"
        )


def _own_gpu() -> int:
    rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= count:
        raise PellucidError(f"process {rank} of this machine has no GPU of its own, there are {count}: start that many")
    return rank


def world_size() -> int:
    """How many processes take part."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process_rank() -> int:
    """The number of this process, 0 for the first."""
    return distributed.get_rank() if world_size() > 1 else 0


def is_main_process() -> bool:
    """Whether this process writes files and reports."""
    return process_rank() == 0


def wait_for_all() -> None:
    """Wait until every process has come this far."""
    if world_size() > 1:
        distributed.barrier()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one message."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def all_gather(tensor: Tensor) -> Tensor:
    """This tensor as every process has it, (processes, ...)."""
    if world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)
