"""Networks with randomized weights: what an explanation finds in them too was not learnt."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.classifiers.classifier import Classifier
from pellucid.errors import LayerError, ModelError, PellucidError


@dataclass(frozen=True)
class Randomized:
    """A copy of a network with some layers randomized to random weights.

    Attributes:
        network: the copy; later copies do not change it.
        layer: the layer that was randomized in this step.
        layers: all layers randomized so far, in order.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> next(randomize_cascading(network)).layers
    ('3',)
    """

    network: nn.Module
    layer: str
    layers: tuple[str, ...]


def randomizable_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules that own floating parameters, last registered first: in most networks the top is first.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> randomizable_layers(network)
    ('3', '0')
    """
    return tuple(name for name, module in reversed(list(network.named_modules())) if _own_parameters(module))


def randomize_cascading(
    network: nn.Module, *, seed: int = 0, layers: Sequence[str] | None = None
) -> Iterator[Randomized]:
    """Randomize a network layer by layer from the top: step i has the first i layers random. `network` is not changed.

    Linear weights are drawn from N(0, 0.01^2), convolutions from Kaiming's normal distribution (fan-out, ReLU), both
    with zero biases; normalization is set to scale 1, shift 0 and running mean 0 and variance 1; other parameters are
    drawn like linear weights. A layer's weights depend on the seed and its name only. An explanation of what was learnt
    must change; its localization score should fall to chance. Source: Adebayo et al., Sanity Checks for Saliency Maps,
    NeurIPS 2018.

    Args:
        network: any module; each step yields a new copy of it.
        seed: of the weights.
        layers: modules by name, the top first; all parameters below a name are randomized together, so a name such as
            "layer4" makes one step of a whole stage. None takes `randomizable_layers(network)` one by one.

    Raises:
        ModelError: no such module, or one without parameters.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> [step.layers for step in randomize_cascading(network)]
    [('3',), ('3', '0')]
    """
    names = _check_layers(network, layers)
    current = network
    for step, name in enumerate(names, 1):
        current = _randomize(current, name, seed)
        yield Randomized(current, name, names[:step])


def randomize_independent(
    network: nn.Module, *, seed: int = 0, layers: Sequence[str] | None = None
) -> Iterator[Randomized]:
    """Randomize one layer at a time, all others as learnt; otherwise as `randomize_cascading`.

    Args:
        network: any module; each step yields a new copy of it.
        seed: of the weights.
        layers: as `randomize_cascading` takes them.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> [step.layers for step in randomize_independent(network)]
    [('3',), ('0',)]
    """
    for name in _check_layers(network, layers):
        yield Randomized(_randomize(network, name, seed), name, (name,))


def reinitialize(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy as it was before training: each module initialized in its own way, where it has one.

    It can do more than a `Randomized` network, whose biases are zero: what is not learnt shows better. Parameters of
    modules without a `reset_parameters` are drawn from N(0, 0.01^2), biases zero.

    Args:
        network: any module, left as it is.
        seed: of the weights; the global random numbers stay as they are.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> torch.equal(reinitialize(network)[3].weight, network[3].weight)
    False
    """
    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                continue
            generator = _generator(f"{seed}/{name}")
            for name_of_parameter, parameter in _own_parameters(module).items():
                parameter.copy_(_draw_values(module, name_of_parameter, parameter, generator))
    for kind in (nn.Module.parameters, nn.Module.buffers):
        for old, new in zip(kind(network), kind(fresh), strict=True):
            new.data = new.data.to(old.device)
    return fresh


def replace_module(classifier: Classifier, network: nn.Module, *, channels_last: bool | None = None) -> Classifier:
    """The same classifier of another network of its architecture, such as a `Randomized` one.

    Args:
        classifier: whose preprocessing, names, device and aliases are kept.
        network: in its place.
        channels_last: run in channels-last memory order; None as the classifier does.

    >>> import pellucid as pl
    >>> classifier = pl.load("digit_cnn")
    >>> replace_module(classifier, reinitialize(classifier.module)).class_names[7]
    '7'
    """
    precision, aliases = classifier.precision, {}
    for alias in ("middle", "final"):  # of the trained network: random weights may move them
        with suppress(LayerError):
            aliases[alias] = classifier.resolve(alias)
    return Classifier(
        network,
        preprocess=classifier.preprocess,
        class_names=classifier.class_names,
        input_size=classifier.input_shape,
        device=precision.device,
        name=classifier.name,
        aliases=aliases,
        channels_last=precision.channels_last if channels_last is None else channels_last,
        autocast=precision.autocast,
    )


def _check_layers(network: nn.Module, layers: Sequence[str] | None) -> tuple[str, ...]:
    names = randomizable_layers(network) if layers is None else tuple(layers)
    if not names:
        raise ModelError(f"{type(network).__name__} has no parameters that could be randomized")
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise ModelError(
                f"no layer {name!r} to randomize; layers with weights: {', '.join(randomizable_layers(network))}"
            )
        if not any(True for _ in known[name].parameters()):
            raise ModelError(f"layer {name!r} has no parameters to randomize")
    if len(set(names)) != len(names):
        raise PellucidError(f"a layer is named twice in {', '.join(names)}")
    return names


def _randomize(network: nn.Module, name: str, seed: int) -> nn.Module:
    fresh = copy.deepcopy(network)
    top = fresh.get_submodule(name)
    with torch.no_grad():
        for inner, module in top.named_modules(prefix=name):
            generator = _generator(f"{seed}/{inner}")
            for name_of_parameter, parameter in _own_parameters(module).items():
                parameter.copy_(_draw_values(module, name_of_parameter, parameter, generator))
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.reset_running_stats()
    return fresh


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _draw_values(module: nn.Module, name: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    """New values for a parameter, drawn on the CPU in float32 so that they are the same on every device."""
    values = torch.zeros(parameter.shape)
    if name == "bias":
        return values
    if isinstance(module, _NORMS):
        return values + 1
    if isinstance(module, _CONVOLUTIONS):
        return nn.init.kaiming_normal_(values, mode="fan_out", nonlinearity="relu", generator=generator)
    return values.normal_(0, 0.01, generator=generator)


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters(recurse=False) if p.is_floating_point()}


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little"))
