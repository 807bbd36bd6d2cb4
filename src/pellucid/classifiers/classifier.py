"""A trained network together with what it takes to use it as an image classifier."""

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pellucid.classifiers.class_names import check_class_names, check_index, find_class, plain_names
from pellucid.classifiers.image_input import prepare_image, stack_inputs
from pellucid.classifiers.layer_view import LayerView
from pellucid.classifiers.layers import LayerInfo
from pellucid.classifiers.multi_view import MultiView
from pellucid.classifiers.network import Network, refuse_train_mode
from pellucid.classifiers.precision import Precision, dtype_of
from pellucid.data import Geometry, Preprocess, probe_geometry, read_image
from pellucid.errors import LayerError, ModelError, PellucidError, TargetError
from pellucid.shapes import Float

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Prediction:
    """One class of one image: its index, name, probability (softmax; sigmoid if there is one logit) and logit.

    >>> import pellucid as pl
    >>> classifier = pl.load("digit_cnn")
    >>> classifier.predict(torch.zeros(1, 1, 32, 32), top=1)[0][0].name
    '8'
    """

    index: int
    name: str
    probability: float
    logit: float


class Classifier:
    """Any image-classifying `nn.Module`, seen as a function from images to logits.

    The module itself is never touched: a copy that shares its memory is traced, moved and run (see `frozen_copy`).

    Args:
        module: a network in eval mode whose forward takes images (N, C, H, W) and returns logits (N, K). Of a network
            made by `torch.compile` the one that was compiled is taken.
        preprocess: what turns an upright RGB PIL image into the network's input (C, H, W): a
            `pellucid.data.Preprocess` or any callable, such as a torchvision transform or a processor that returns
            a dict with `pixel_values`. Needed by `read` only.
        class_names: K names in the order of the logits, or a mapping {index: name}; by default "class 0" ...
        input_size: side, (H, W) or (C, H, W) of the images that layers are listed for; taken from `preprocess` where
            it says it, else (3, 224, 224). Other sizes work wherever the network takes them.
        device: where the network runs; by default where its weights are.
        name: short label for reports; by default the module's class.
        aliases: layer names to use for "middle" and "final" in place of those chosen by rule.
        channels_last: run in channels-last memory order; often faster, equal up to rounding. The weights are copied, as
            they are for another device, so later changes of the module's own are not seen.
        autocast: run under autocast in this type (torch.bfloat16); activations and logits stay float32.

    Raises:
        ModelError: the module is in train mode, cannot be run on such images, or returns something else than logits.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    >>> classifier = Classifier(network, class_names=["cat", "dog"], input_size=8)
    >>> classifier.logits(torch.zeros(5, 3, 8, 8)).shape
    torch.Size([5, 2])
    >>> classifier.at("final")
    LayerView('Sequential' at '1')
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        preprocess: "Callable[[Image], Tensor] | None" = None,
        class_names: Sequence[str] | Mapping[Any, Any] | None = None,
        input_size: int | tuple[int, ...] | None = None,
        device: str | torch.device | None = None,
        name: str | None = None,
        aliases: Mapping[str, str] | None = None,
        channels_last: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        module = getattr(module, "_orig_mod", module)
        refuse_train_mode(module)
        self._module = module
        self.name = name or type(module).__name__
        self.preprocess = preprocess
        self.input_shape = _input_shape(input_size, preprocess)
        self.precision = Precision(_device(module, device), dtype_of(module), channels_last, autocast)
        self._network = Network(module, self.name, self.input_shape, self.precision, aliases or {})
        self.num_classes = self._network.num_classes
        self.class_names = check_class_names(class_names, self.num_classes)
        self._geometries: dict[tuple[int, int], Geometry] = {}
        self._views: dict[tuple[str, str | None], LayerView] = {}

    @property
    def module(self) -> nn.Module:
        """The network that was given, never touched."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.precision.device

    @property
    def has_class_names(self) -> bool:
        """Whether somebody has named the classes; else they are "class 0" ..."""
        return self.class_names != plain_names(self.num_classes)

    def read(self, images: "str | Path | Image | Sequence[str | Path | Image]") -> Tensor:
        """Read images into the classifier's own input space.

        Args:
            images: a file, a PIL image (its camera's rotation is applied), or a list of them.

        Returns:
            (N, C, H, W) float32 on the CPU; N = 1 for a single image.

        Raises:
            ImageError: a file is missing or no image.
            ModelError: the classifier was made without `preprocess`, or that returns something else or other sizes.
        """
        single = isinstance(images, str | Path) or not isinstance(images, Sequence)
        items = [images] if single else list(images)  # type: ignore[arg-type]
        if not items:
            raise PellucidError("no images to read: the list is empty")
        return stack_inputs([self.prepare(item) for item in items])  # type: ignore[arg-type]

    def prepare(self, image: "str | Path | Image") -> Tensor:
        """The input (C, H, W) float32 that `preprocess` makes of one image, upright and RGB.

        Raises:
            ImageError: a file is missing or no image.
            ModelError: the classifier was made without `preprocess`, or that returns something else.
        """
        if self.preprocess is None:
            raise ModelError(
                f"classifier {self.name!r} was made without preprocess=, so it cannot read image files; make it with "
                "pl.Classifier(module, preprocess=...), which a factory may return too"
            )
        upright = read_image(image) if isinstance(image, str | Path) else image
        return prepare_image(self.preprocess, upright, self.input_shape[0])

    def geometry(self, width: int, height: int) -> Geometry:
        """Which part of an image of this size the network sees; probed where `preprocess` is no `Preprocess`.

        Raises:
            PellucidError: the preprocessing is not one that can be probed.
            ModelError: as `prepare`.
        """
        if isinstance(self.preprocess, Preprocess):
            return self.preprocess.geometry(width, height)
        if (width, height) not in self._geometries:
            self._geometries[width, height] = probe_geometry(self.prepare, width, height)
        return self._geometries[width, height]

    def logits(self, images: Tensor) -> Float[Tensor, "N K"]:
        """Logits (N, K) float32 of images (N, C, H, W) in the classifier's own input space; differentiable."""
        return self._network.logits(self.check_images(images))

    def predict(self, images: Tensor, top: int = 5, max_batch: int = 16) -> list[list[Prediction]]:
        """The `top` most probable classes of each image, most probable first.

        Args:
            images: (N, C, H, W) in the classifier's own input space.
            top: how many classes; all of them if there are fewer.
            max_batch: most images to run at once.

        Raises:
            ModelError: a logit is NaN or infinite.
        """
        if top < 1 or max_batch < 1:
            raise PellucidError(f"top and max_batch must be at least 1, not {top} and {max_batch}")
        chunks = torch.split(self.check_images(images), max_batch)
        with torch.no_grad():
            logits = torch.cat([self.logits(chunk) for chunk in chunks]).cpu()
        if not bool(logits.isfinite().all()):
            bad = (~logits.isfinite()).any(1).nonzero().flatten().tolist()
            raise ModelError(f"{self.name} gives NaN or infinite logits for images {bad[:8]}; check weights and input")
        probabilities = logits.softmax(1) if self.num_classes > 1 else logits.sigmoid()
        best, order = probabilities.topk(min(top, self.num_classes), dim=1)
        return [
            [
                Prediction(index, self.class_names[index], probability, float(row[index]))
                for probability, index in zip(chances.tolist(), indices.tolist(), strict=True)
            ]
            for chances, indices, row in zip(best, order, logits, strict=True)
        ]

    def layers(self, depth: int | None = None) -> list[LayerInfo]:
        """The layers at which the classifier can be seen, in the order of computation, from one dry run.

        Args:
            depth: most dots in a name: 0 lists `layer4` but not `layer4.1`. By default every operation is listed, some
                five hundred in a DenseNet-121.
        """
        return [info for info in self._network.layers if depth is None or info.name.count(".") <= depth]

    def resolve(self, layer: str) -> str:
        """The name behind an alias (`input`, `middle`, `final`), or the name itself.

        Raises:
            LayerError: there is no such layer; the message names the nearest ones.
        """
        return self._network.resolve(layer)

    def at(self, layer: str, *, layout: str | None = None) -> LayerView:
        """The classifier seen from a layer.

        Args:
            layer: a name listed by `layers`, or `input`, `middle`, `final` (the last spatial map before pooling); a
                module that has one of these three names itself is listed as `final:0`.
            layout: order of the layer's output where it is not what its shape suggests: "NCHW", "NHWC", "NTC" or "NC".

        Raises:
            LayerError: no such layer, or the network cannot be cut there.
            ModelError: the module was put into train mode meanwhile.
        """
        refuse_train_mode(self._module)
        key = (self.resolve(layer), layout)
        if key not in self._views:
            cut, native_layout = self._network.cut(key[0], layout)
            self._views[key] = LayerView(self, key[0], cut, native_layout, self.precision)
        return self._views[key]

    def at_layers(self, layers: Sequence[str | LayerView]) -> MultiView:
        """The classifier seen from several layers, which are computed together.

        Args:
            layers: names as `at` takes them, or views of this classifier.

        Raises:
            LayerError: no such layer, or the network cannot be cut there.
        """
        views = [self.at(layer) if isinstance(layer, str) else layer for layer in layers]
        others = [view.classifier.name for view in views if view.classifier is not self]
        if others:
            raise LayerError(f"layers of another classifier, {others[0]}, were given to {self.name}")
        return MultiView(views, self._network)

    def class_index(self, target: int | str) -> int:
        """The index of a class given by index or name.

        A text is a name first; a number written as text is an index where no class is named by a number.

        Raises:
            TargetError: no such class, or the name belongs to several.
        """
        if isinstance(target, str):
            return find_class(target, self.class_names, self.name)
        return check_index(_integer(target), self.num_classes, self.name)

    def check_images(self, images: Tensor) -> Tensor:
        """`images` if they are a batch (N, C, H, W) of floats with the right channels; else raises PellucidError."""
        return self._network.check_images(images)

    def fingerprint(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of all weights and buffers."""
        digest = hashlib.sha256()
        for name, tensor in [*self._module.named_parameters(), *self._module.named_buffers()]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {self.num_classes} classes, input {self.input_shape}, {self.device})"


def _input_shape(input_size: int | tuple[int, ...] | None, preprocess: object) -> tuple[int, int, int]:
    size = input_size if input_size is not None else getattr(preprocess, "input_size", 224)
    channels = getattr(preprocess, "channels", 3)
    sizes = (size, size) if isinstance(size, int) else tuple(size)
    shape = sizes if len(sizes) == 3 else (channels, *sizes)
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(f"input_size {input_size!r} is neither a side, nor (H, W), nor (C, H, W)")
    return shape[0], shape[1], shape[2]


def _device(module: nn.Module, device: str | torch.device | None) -> torch.device:
    if device is None:
        first = next(module.parameters(), None)
        return first.device if first is not None else torch.device("cpu")
    try:
        requested = torch.device(device)
        torch.empty(0, device=requested)
    except Exception as error:
        reason = str(error).splitlines()[0]
        reason = "there is no such kind" if reason.startswith("Expected one of") else reason  # torch lists 18 of them
        raise ModelError(
            f"device {str(device)!r} cannot be used ({reason}); use cpu, or cuda or mps where there is one"
        ) from error
    return requested


def _integer(target: object) -> int:
    if isinstance(target, bool):
        raise TargetError(f"a class is given by index or name, not by {target!r}")
    try:
        return operator.index(target)  # type: ignore[arg-type]
    except TypeError as error:
        raise TargetError(f"a class is given by index or name, not by {target!r}") from error
