"""The networks in training, their optimizers and random numbers: one state that can be saved and restored."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pellucid.errors import ModelError
from pellucid.storage import select_prefix
from pellucid.surrogate.model.features import FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.network_layers import to_channels_last
from pellucid.surrogate.model.surrogate_networks import DataSizes, SurrogateNetworks, make_discriminator
from pellucid.surrogate.training.distributed import all_gather, average_gradients, process_rank, world_size
from pellucid.surrogate.training.preparation import TrainingData
from pellucid.surrogate.training.step import StepLosses, sum_losses
from pellucid.surrogate.training.training_batches import draw_batch
from pellucid.surrogate.training_options import TrainingOptions

BETAS = (0.0, 0.99)
DROP_AT, DROP_TO = 0.75, 0.2
"""For the last quarter of the steps the learning rates are a fifth."""

ROLLBACK_FACTOR = 0.5
"""Factor of the discriminator's learning rate after each roll-back."""


class Trainer:
    """A surrogate in training.

    Args:
        extractor: The classifier and its features.
        space: Display space of the images.
        data: The training set.
        sizes: Sizes of the data.
        options: Options of the training.

    Attributes:
        networks: Encoders, head and generator.
        average: The exponential moving average of the networks, which is what explanations use; see `average_weights`.
        discriminator: The generator's opponent, or None.
        steps: Number of steps made.
        rollbacks: How often the training diverged.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        space: DisplaySpace,
        data: TrainingData,
        sizes: DataSizes,
        options: TrainingOptions,
    ) -> None:
        device = extractor.classifier.device
        self.data, self.options, self.device = data, options, device
        self.networks = SurrogateNetworks(sizes, options)
        to_channels_last(self.networks, device)
        self.average = average_weights(self.networks, options.ema_decay)
        self.discriminator = make_discriminator(sizes, options) if options.use_discriminator else None
        if self.discriminator is not None:
            to_channels_last(self.discriminator, device)
        self.random = torch.Generator()
        self.reseed(0)
        self.losses = StepLosses(extractor, space, data, options, self.random)
        self.steps = 0
        self.rollbacks = 0
        self._optimizers = self._new_optimizers()

    @property
    def averaged_networks(self) -> SurrogateNetworks:
        """The averaged encoders, head and generator."""
        networks = self.average.module
        assert isinstance(networks, SurrogateNetworks)
        return networks

    def reseed(self, rollbacks: int) -> None:
        """Other random numbers for every process and after every roll-back, the same ones in every run."""
        self.random.manual_seed(self.options.seed + 1000 * rollbacks + 1_000_000 * process_rank())

    def _new_optimizers(self) -> dict[str, torch.optim.Adam]:
        options, generator = self.options, self.networks.generator
        encoders = [network for name, network in self.networks.named_children() if name != "generator"]
        encoder_weights = [weight for network in encoders for weight in network.parameters()]
        optimizers = {
            "generator": torch.optim.Adam(generator.parameters(), lr=options.generator_lr, betas=BETAS),
            "encoders": torch.optim.Adam(encoder_weights, lr=options.encoder_lr, betas=BETAS),
        }
        if self.discriminator is not None:
            weights = self.discriminator.parameters()
            optimizers["discriminator"] = torch.optim.Adam(weights, lr=options.discriminator_lr, betas=BETAS)
        return optimizers

    def step(self) -> dict[str, float]:
        """Make one step; returns its losses and the norms of the gradients."""
        options = self.options
        warmup = self.steps < options.warmup_steps
        discriminator = None if warmup else self.discriminator
        batch = draw_batch(
            self.data,
            options.batch_size // world_size(),
            paired_fraction=options.paired_fraction,
            random=self.random,
            device=self.device,
        )
        if discriminator is not None:
            discriminator.requires_grad_(False)
        losses, generated = self.losses.surrogate_losses(
            self.networks, batch, discriminator, warmup=warmup, step=self.steps
        )
        norms = {"surrogate_gradient": self._descend(losses, self.networks, ("generator", "encoders"))}
        if discriminator is not None:
            discriminator.requires_grad_(True)
            its_losses = self.losses.discriminator_losses(discriminator, batch, generated, self.steps)
            norms["discriminator_gradient"] = self._descend(its_losses, discriminator, ("discriminator",))
            losses |= its_losses
        self.steps += 1
        self.average.update_parameters(self.networks)
        numbers = losses | norms
        values = torch.stack([value.detach().float() for value in numbers.values()])
        if not bool(values.isfinite().all()) and (problem := self.losses.classifier_problem(generated)):
            raise ModelError(
                f"step {self.steps}: the classifier {self.losses.extractor.classifier.name} itself gives NaN or "
                f"infinite {problem} for images whose every pixel is finite, so no training of a surrogate can go on. "
                "Look for a square root, a logarithm or a division in it that can meet 0"
            )
        return dict(zip(numbers, all_gather(values).mean(0).tolist(), strict=True))

    def _descend(self, losses: dict[str, Tensor], network: nn.Module, names: Iterable[str]) -> Tensor:
        optimizers = [self._optimizers[name] for name in names]
        for name, optimizer in zip(names, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            optimizer.param_groups[0]["lr"] = self._learning_rate(name)
        sum_losses(losses).backward()  # type: ignore[no-untyped-call]
        average_gradients(network.parameters())
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.options.max_grad_norm)
        if bool(norm.isfinite()):
            for optimizer in optimizers:
                optimizer.step()
        return norm

    def _learning_rate(self, name: str) -> float:
        options = self.options
        rates = {
            "generator": options.generator_lr,
            "encoders": options.encoder_lr,
            "discriminator": options.discriminator_lr * ROLLBACK_FACTOR**self.rollbacks,
        }
        return rates[name] * (DROP_TO if self.steps >= DROP_AT * options.steps else 1.0)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, by name; the same for every process."""
        state = {f"random.{rank}": bits for rank, bits in enumerate(all_gather(self.random.get_state()))}
        state["mean_path_length"] = self.losses.mean_path_length
        for name, network in self._all_networks().items():
            state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{name}.{index}.{key}": value for key, value in moments.items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue where `state` was taken."""
        self.random.set_state(state[f"random.{process_rank()}"].clone())
        self.losses.mean_path_length = state["mean_path_length"].to(self.device)
        for name, network in self._all_networks().items():
            network.load_state_dict(select_prefix(state, f"{name}."))
        self._optimizers = self._new_optimizers()
        for name, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in select_prefix(state, f"optimizer.{name}.").items():
                index, _, moment = key.partition(".")
                moments.setdefault(int(index), {})[moment] = value
            _restore(optimizer, moments)

    def _all_networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"networks": self.networks, "average": self.average}
        return networks if self.discriminator is None else networks | {"discriminator": self.discriminator}


def average_weights(network: nn.Module, decay: float) -> AveragedModel:
    """A copy of a network whose weights follow the original's at each `update_parameters`, in eval mode.

    At step t the decay is min(decay, t / (t + 50)), so that the random start is forgotten soon.

    >>> network = nn.Linear(1, 1)
    >>> average = average_weights(network, 0.995)
    >>> bool(average.module.weight == network.weight), average.module.training
    (True, False)
    """

    def move(averaged: Sequence[Tensor], current: Sequence[Tensor], step: Tensor | int) -> None:
        weight = 1 - min(decay, int(step) / (int(step) + 50))
        for average, value in zip(averaged, current, strict=True):
            average.lerp_(value, weight)

    average_fn: Callable[..., None] = move
    average = AveragedModel(network, multi_avg_fn=average_fn)
    average.n_averaged.fill_(1)  # the initial weights are part of the average
    average.eval().requires_grad_(False)
    return average


def _restore(optimizer: torch.optim.Adam, moments: dict[int, dict[str, Tensor]]) -> None:
    """Set an optimizer's moments, in the memory order of the weights: another could round otherwise."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    placed = {
        index: {
            name: torch.empty_like(weights[index]).copy_(value) if value.ndim else value.clone()
            for name, value in kept.items()
        }
        for index, kept in moments.items()
    }
    optimizer.load_state_dict({"state": placed, "param_groups": optimizer.state_dict()["param_groups"]})
