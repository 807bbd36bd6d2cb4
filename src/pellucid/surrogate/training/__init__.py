"""Training a surrogate: data and auxiliary models, losses, the trainer with exact resume, and its loop."""

from pellucid.surrogate.training.checkpoint import CheckpointError, digest_of
from pellucid.surrogate.training.distributed import is_main_process, join_processes
from pellucid.surrogate.training.image_datasets import make_dataset
from pellucid.surrogate.training.loop import DivergedError
from pellucid.surrogate.training.preparation import prepare
from pellucid.surrogate.training.train import train
from pellucid.surrogate.training.trainer import Trainer
from pellucid.surrogate.training.training_progress import ProgressCallback, TrainingProgress, print_progress

__all__ = [
    "CheckpointError",
    "DivergedError",
    "ProgressCallback",
    "Trainer",
    "TrainingProgress",
    "digest_of",
    "is_main_process",
    "join_processes",
    "make_dataset",
    "prepare",
    "print_progress",
    "train",
]
