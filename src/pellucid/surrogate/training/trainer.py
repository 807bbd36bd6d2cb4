"""The networks in training, their optimizers and random numbers: one state that can be put away and taken up again."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pellucid.storage import select_prefix
from pellucid.surrogate.model import RunningMean, to_channels_last
from pellucid.surrogate.model.features import FeatureExtractor
from pellucid.surrogate.model.image_space import DisplaySpace
from pellucid.surrogate.model.surrogate_networks import DataSizes, SurrogateNetworks, make_discriminator
from pellucid.surrogate.training.distributed import (
    all_gather,
    average_gradients,
    process_rank,
    world_size,
)
from pellucid.surrogate.training.preparation import TrainingData
from pellucid.surrogate.training.step import StepLosses, draw_batch, total
from pellucid.surrogate.training.training_options import TrainingOptions

BETAS = (0.0, 0.99)
DROP_AT, DROP_TO = 0.75, 0.2
"""For the last quarter of the steps the learning rates are a fifth."""

CAUTION = 0.5
"""What the discriminator's learning rate is multiplied by after every roll-back."""


class Trainer:
    """A twin in training.

    Args:
        features: the classifier and what it sees.
        space: display space.
        data: the training set.
        sizes: of the data.
        options: of the training.

    Attributes:
        twin, mean, discriminator: networks, the running mean of the twin, and the adversary if there is one.
        steps: how many were made.
        rollbacks: how often the training went astray.
    """

    def __init__(
        self,
        features: FeatureExtractor,
        space: DisplaySpace,
        data: TrainingData,
        sizes: DataSizes,
        options: TrainingOptions,
    ) -> None:
        device = features.classifier.device
        self.data, self.options, self.device = data, options, device
        self.twin = SurrogateNetworks(sizes, options)
        to_channels_last(self.twin, device)
        self.mean = RunningMean(self.twin, options.running_mean)
        self.discriminator = make_discriminator(sizes, options) if options.adversary else None
        if self.discriminator is not None:
            to_channels_last(self.discriminator, device)
        self.random = torch.Generator()
        self.reseed(0)
        self.losses = StepLosses(features, space, data, options, self.random)
        self.steps = 0
        self.rollbacks = 0
        self._optimizers = self._new_optimizers()

    def reseed(self, rollbacks: int) -> None:
        """Other random numbers for every process and after every roll-back, the same ones in every run."""
        self.random.manual_seed(self.options.seed + 1000 * rollbacks + 1_000_000 * process_rank())

    def _new_optimizers(self) -> dict[str, torch.optim.Adam]:
        options, generator = self.options, self.twin.generator
        encoders = [network for name, network in self.twin.named_children() if name != "generator"]
        encoder_weights = [weight for network in encoders for weight in network.parameters()]
        found = {
            "generator": torch.optim.Adam(generator.parameters(), lr=options.generator_rate, betas=BETAS),
            "encoders": torch.optim.Adam(encoder_weights, lr=options.encoder_rate, betas=BETAS),
        }
        if self.discriminator is not None:
            rate = options.discriminator_rate
            found["discriminator"] = torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=BETAS)
        return found

    def step(self) -> dict[str, float]:
        """Make one step; returns its losses and the norms of the gradients."""
        warm = self.steps < self.options.warm_up
        adversary = None if warm else self.discriminator
        rows = self.options.batch // world_size()
        batch = draw_batch(self.data, rows, self.options.paired, self.random, self.device)
        if adversary is not None:
            adversary.requires_grad_(False)
        losses, fakes = self.losses.twin(self.twin, batch, adversary, warm=warm, step=self.steps)
        norms = {"twin_gradient": self._descend(losses, self.twin, ("generator", "encoders"))}
        if adversary is not None:
            adversary.requires_grad_(True)
            own = self.losses.discriminator(adversary, batch, fakes, self.steps)
            norms["discriminator_gradient"] = self._descend(own, adversary, ("discriminator",))
            losses |= own
        self.steps += 1
        self.mean.follow(self.twin, self.steps)
        told = losses | norms
        values = torch.stack([value.detach().float() for value in told.values()])
        return dict(zip(told, all_gather(values).mean(0).tolist(), strict=True))

    def _descend(self, losses: dict[str, Tensor], network: nn.Module, names: Iterable[str]) -> Tensor:
        optimizers = [self._optimizers[name] for name in names]
        for name, optimizer in zip(names, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            optimizer.param_groups[0]["lr"] = self._rate(name)
        total(losses).backward()  # type: ignore[no-untyped-call]
        average_gradients(network.parameters())
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.options.clip)
        if bool(norm.isfinite()):
            for optimizer in optimizers:
                optimizer.step()
        return norm

    def _rate(self, name: str) -> float:
        options = self.options
        rates = {
            "generator": options.generator_rate,
            "encoders": options.encoder_rate,
            "discriminator": options.discriminator_rate * CAUTION**self.rollbacks,
        }
        return rates[name] * (DROP_TO if self.steps >= DROP_AT * options.steps else 1.0)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, by name; the same for every process."""
        found = {f"random.{rank}": state for rank, state in enumerate(all_gather(self.random.get_state()))}
        found["mean_path"] = self.losses.mean_path
        for name, network in self._networks().items():
            found |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        for name, optimizer in self._optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                found |= {f"optimizer.{name}.{index}.{key}": value for key, value in moments.items()}
        return found

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up where `state` was taken."""
        self.random.set_state(state[f"random.{process_rank()}"].clone())
        self.losses.mean_path = state["mean_path"].to(self.device)
        for name, network in self._networks().items():
            network.load_state_dict(select_prefix(state, f"{name}."))
        self._optimizers = self._new_optimizers()
        for name, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in select_prefix(state, f"optimizer.{name}.").items():
                index, _, moment = key.partition(".")
                moments.setdefault(int(index), {})[moment] = value
            _restore(optimizer, moments)

    def _networks(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"twin": self.twin, "mean": self.mean.network}
        return found if self.discriminator is None else found | {"discriminator": self.discriminator}


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
