"""What each operation of a traced suffix is to relevance, however it was written: as a module, function or method.

Kinds of operations have the names that `Recording.kind_of` gives: lower case, without underscores, so that
nn.AvgPool2d, F.avg_pool2d and a method of that name would be one.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pellucid.attribution.lrp.rules import LinearLayer
from pellucid.classifiers import ancestors
from pellucid.errors import LayerError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = _names("conv1d conv2d conv3d linear")
BATCH_NORMS = _names("batchnorm batchnorm1d batchnorm2d batchnorm3d syncbatchnorm")
NORMALIZATIONS = _names("layernorm groupnorm")
ADDITIONS = _names("add sub subtract")
DIVISIONS = _names("div divide truediv")
PRODUCTS = _names("mul multiply") | DIVISIONS
MATRIX_PRODUCTS = _names("matmul mm bmm einsum")
ATTENTION = _names("scaleddotproductattention multiheadattention")
SUMS = _names(
    "avgpool1d avgpool2d adaptiveavgpool1d adaptiveavgpool2d mean sum interpolate upsample upsamplingbilinear2d "
    "upsamplingnearest2d"
)
# Each output has one input. Local response norm is one of them once its denominator is taken as a constant.
ELEMENTWISE = _names(
    "relu relu6 leakyrelu prelu rrelu elu celu selu gelu silu mish sigmoid logsigmoid hardsigmoid hardswish hardtanh "
    "tanh tanhshrink hardshrink softshrink softplus softsign threshold clamp clampmin clampmax clip abs neg exp log "
    "sqrt square pow reciprocal rsqrt erf dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout "
    "stochasticdepth detach localresponsenorm"
)
# Each output is a copy of one input or a constant.
COPIES = _names(
    "identity flatten unflatten reshape view viewas permute transpose t movedim swapaxes swapdims squeeze unsqueeze "
    "expand expandas repeat repeatinterleave tile contiguous clone to float double type typeas cat concat concatenate "
    "stack pad zeropad2d constantpad2d reflectionpad2d replicationpad2d circularpad2d getitem select narrow "
    "indexselect chunk split tensorsplit unbind unfold roll flip channelshuffle pixelshuffle pixelunshuffle"
)
# The largest input takes all.
POOLS = _names("maxpool1d maxpool2d adaptivemaxpool1d adaptivemaxpool2d amax maximum")
WITH_RULE = LAYERS | BATCH_NORMS | NORMALIZATIONS | ADDITIONS | PRODUCTS | MATRIX_PRODUCTS | ATTENTION | SUMS
WITH_RULE |= ELEMENTWISE | COPIES | POOLS
# Where biases, stabilizers and constants can keep relevance.
ABSORBING = WITH_RULE - ELEMENTWISE - PRODUCTS - POOLS - COPIES | _names("cat concat concatenate stack pad")
# What may lie between the images and a layer that is still the first.
BEFORE_FIRST_LAYER = ADDITIONS | BATCH_NORMS | COPIES | PRODUCTS

# How surely the output of an operation is a gate or a scale for what it is multiplied with.
GATES = dict.fromkeys(_names("sigmoid hardsigmoid softmax tanh erf rsqrt reciprocal"), 2)
GATES |= dict.fromkeys(_names("relu6 hardtanh clamp"), 1)
# What a gate may go through on its way to the product.
KEEP_GATES = ADDITIONS | PRODUCTS
KEEP_GATES |= _names("flatten reshape view permute transpose squeeze unsqueeze expand expandas repeat interpolate")
KEEP_GATES |= _names("getitem identity dropout to contiguous")


Apply = Callable[[Tensor, Tensor], Tensor]
_HOMES = (None, "torch", "torchvision", "_operator", "builtins")


class Recording(fx.Interpreter):
    """A traced suffix run once with every value kept in `env`.

    Args:
        suffix: from `view.suffix`.
        inputs: native activation (N, ...) first, then what else crosses the cut.

    >>> import pellucid as pl
    >>> view = pl.load("digit_cnn").at("final")
    >>> recording = Recording(view.suffix, view.suffix_inputs(view.activation(torch.rand(2, 1, 32, 32))))
    >>> [recording.kind_of(node) for node in recording.nodes if node.op == "call_module"]
    ['maxpool2d', 'flatten', 'linear']
    """

    def __init__(self, suffix: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
        super().__init__(suffix, garbage_collect_values=False)
        with torch.no_grad():
            self.run(*inputs)
        self.nodes: list[fx.Node] = list(suffix.graph.nodes)
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        self.activation = placeholders[0]
        self.output: fx.Node = self.nodes[-1].args[0][0]  # type: ignore[index, assignment]
        self.from_activation = self._computed_from(self.activation)
        self.varying = self._computed_from(*placeholders)

    def _computed_from(self, *starts: fx.Node) -> set[fx.Node]:
        """All nodes whose numbers are computed from those of `starts`; their sizes alone do not count."""
        nodes = set(starts)
        for candidate in self.nodes:
            if any(used in nodes for used in candidate.all_input_nodes):
                nodes.add(candidate)
            if not _holds_numbers(self.env[candidate]):
                nodes.discard(candidate)
        return nodes

    def name_of(self, node: fx.Node) -> str:
        """The user's name: of the module, or of the module that calls the function with the function's name."""
        if node.op == "call_module":
            return _user_name(str(node.target))
        function = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        stack = list(node.meta.get("nn_module_stack", {}).values())
        return ".".join(filter(None, [_user_name(stack[-1][0]) if stack else "", function.strip("_")]))

    def kind_of(self, node: fx.Node) -> str:
        """One name for all ways to write an operation, such as "avgpool2d"."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            # The output layer of nn.MultiheadAttention has a class of its own.
            name = "linear" if isinstance(module, nn.Linear) else type(module).__name__
        elif node.op == "call_method":
            name = str(node.target)
        elif node.op == "call_function":
            home = getattr(node.target, "__module__", None)
            name = getattr(node.target, "__name__", "") if home is None or home.split(".")[0] in _HOMES else node.name
        else:
            return node.op
        return name.replace("_", "").lower()

    def recompute(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Compute a node again from its inputs, some of which have other `values`."""
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda used: values[used] if used in values else self.env[used]
        )
        return getattr(self, node.op)(node.target, args, kwargs)

    def value_for(self, node: fx.Node, activation: Tensor) -> Tensor:
        """The value that a node would have for another activation."""
        values: dict[fx.Node, Any] = {self.activation: activation}
        needed = ancestors([node], stop=[self.activation]) & self.from_activation
        for between in self.nodes:
            if between in needed and between not in values:
                values[between] = self.recompute(between, values)
        value: Tensor = values[node]
        return value

    def relevance_inputs(self, node: fx.Node) -> list[fx.Node]:
        """The nodes among which the relevance of `node` is shared.

        Gates and denominators take none. A value that crosses the cut beside the activation takes its part.

        Raises:
            LayerError: relevance cannot be shared among this operation's inputs.
        """
        varying = [used for used in node.all_input_nodes if used in self.varying]
        kind = self.kind_of(node)
        if kind in LAYERS | BATCH_NORMS | NORMALIZATIONS and (len(varying) > 1 or varying[0] is not _input_of(node)):
            raise LayerError(f"LRP has no rule for {self.name_of(node)!r}: its weights are computed from the images")
        if kind in ATTENTION:
            return [_argument(node, 2, "value")]
        if len(varying) > 1 and kind in DIVISIONS:
            return [used for used in varying if used is _input_of(node)]
        if len(varying) > 1 and kind in PRODUCTS | MATRIX_PRODUCTS:
            return self._signals(varying, can_broadcast=kind in PRODUCTS)
        if len(varying) > 1 and kind in ELEMENTWISE:
            raise no_rule(self, node)
        return varying

    def _signals(self, factors: list[fx.Node], *, can_broadcast: bool) -> list[fx.Node]:
        """The factors of a product that are not gates, or all if none is known to be one.

        A gate is behind a squashing function; between two such factors, or none, it is the one that is broadcast.
        """
        ranks = [(self._gate_rank(factor), -can_broadcast * self.env[factor].numel()) for factor in factors]
        return [factor for factor, rank in zip(factors, ranks, strict=True) if rank == min(ranks)]

    def _gate_rank(self, node: fx.Node) -> int:
        """How surely a factor is a gate, looking through reshaping and through arithmetic with constants."""
        kind = self.kind_of(node)
        if kind in GATES:
            return GATES[kind]
        varying = [used for used in node.all_input_nodes if used in self.varying]
        looks_through = kind in KEEP_GATES and len(varying) == 1
        return self._gate_rank(varying[0]) if looks_through else 0

    def attention(self, node: fx.Node, value: Tensor) -> Tensor:
        """The output of an attention for another value, its weights held constant by its query and key."""
        args, kwargs = self._arguments(node)
        new_args = (*args[:2], value, *args[3:]) if len(args) > 2 else args
        new_kwargs = kwargs if len(args) > 2 else kwargs | {"value": value}
        output = getattr(self, node.op)(node.target, new_args, new_kwargs)
        values: Tensor = output if isinstance(output, Tensor) else output[0]
        return values

    def layer_before(self, batch_norm: fx.Node) -> fx.Node | None:
        """The convolution or linear layer that a batch norm can be merged into, if it alone reads that layer."""
        node = _input_of(batch_norm)
        while self.kind_of(node) in ("identity", "dropout", "dropout2d") and len(node.users) == 1:
            node = _input_of(node)
        is_layer = self.kind_of(node) in LAYERS and node in self.from_activation and len(node.users) == 1
        channels_fit = is_layer and (self.kind_of(node) != "linear" or self.env[node].ndim == 2)
        return node if channels_fit else None

    def linear_layer(self, node: fx.Node) -> LinearLayer:
        """The weights of a convolution, linear layer, batch norm, layer norm or group norm."""
        kind = self.kind_of(node)
        if kind in BATCH_NORMS:
            return self._diagonal(node)
        if kind in NORMALIZATIONS:
            return self._normalization(node)
        run, weight, bias = self._module_weights(node) if node.op == "call_module" else self._function_weights(node)
        if bias is not None and kind != "linear":
            bias = bias.reshape(-1, *[1] * (weight.ndim - 2))
        return LinearLayer(run, weight, bias)

    def _module_weights(self, node: fx.Node) -> tuple[Apply, Tensor, Tensor | None]:
        module = self.fetch_attr(str(node.target))
        run = F.linear if isinstance(module, nn.Linear) else module._conv_forward
        return lambda x, weight: run(x, weight, None), module.weight, module.bias

    def _function_weights(self, node: fx.Node) -> tuple[Apply, Tensor, Tensor | None]:
        function, (args, kwargs) = node.target, self._arguments(node)
        named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        options = {name: value for name, value in kwargs.items() if name not in ("input", "weight", "bias")}

        def apply(x: Tensor, weight: Tensor) -> Tensor:
            output: Tensor = function(x, weight, None, *args[3:], **options)  # type: ignore[operator]
            return output

        return apply, named["weight"], named.get("bias")

    def merged(self, layer: fx.Node, batch_norm: fx.Node) -> LinearLayer:
        """A layer together with the batch norm that follows it: the same function, one layer."""
        before, norm = self.linear_layer(layer), self._diagonal(batch_norm)
        assert norm.bias is not None
        scale = norm.weight.flatten()
        weight = before.weight * scale.reshape(-1, *[1] * (before.weight.ndim - 1))
        bias = norm.bias.reshape(-1, *[1] * (before.weight.ndim - 2))
        if before.bias is not None:
            bias = bias + before.bias * scale.reshape(bias.shape)
        return LinearLayer(before.apply, weight, bias)

    def _diagonal(self, node: fx.Node) -> LinearLayer:
        """Batch norm in inference as y = weight x + bias, channel by channel."""
        values = self._settings(node, F.batch_norm, "running_mean", "running_var", "weight", "bias", "eps", "training")
        mean, variance = values["running_mean"], values["running_var"]
        if mean is None or values["training"]:
            raise LayerError(
                f"LRP has no rule for {self.name_of(node)!r}: it normalizes by the statistics of the batch"
            )
        scale = (variance + values["eps"]).rsqrt() * (1.0 if values["weight"] is None else values["weight"])
        shift = (0.0 if values["bias"] is None else values["bias"]) - mean * scale
        shape = (-1, *[1] * (self.env[node].ndim - 2))
        return LinearLayer(torch.mul, scale.reshape(shape), shift.reshape(shape))

    def _normalization(self, node: fx.Node) -> LinearLayer:
        """Layer or group norm with its deviation held constant: linear in its input."""
        x: Tensor = self.env[_input_of(node)]
        if self.kind_of(node) == "groupnorm":
            values = self._settings(node, F.group_norm, "num_groups", "weight", "bias", "eps")
            grouped, affine = (len(x), values["num_groups"], -1), (-1, *[1] * (x.ndim - 2))
        else:
            values = self._settings(node, F.layer_norm, "normalized_shape", "weight", "bias", "eps")
            affine = tuple(values["normalized_shape"])
            grouped = (*x.shape[: -len(affine)], -1)
        deviation = (x.reshape(grouped).var(-1, correction=0, keepdim=True) + values["eps"]).sqrt()

        def apply(inputs: Tensor, weight: Tensor) -> Tensor:
            flat = inputs.reshape(grouped)
            scaled: Tensor = ((flat - flat.mean(-1, keepdim=True)) / deviation).reshape(inputs.shape) * weight
            return scaled

        weight, bias = (None if values[name] is None else values[name].reshape(affine) for name in ("weight", "bias"))
        return LinearLayer(apply, x.new_ones(()) if weight is None else weight, bias)

    def _settings(self, node: fx.Node, function: Callable[..., Any], *names: str) -> dict[str, Any]:
        """Attributes of a module, or arguments of the function of the same purpose."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            return {name: getattr(module, name) for name in names}
        if node.target is not function:
            raise no_rule(self, node)
        args, kwargs = self._arguments(node)
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        return {name: bound.arguments[name] for name in names}

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda used: self.env[used])
        return args, kwargs


def no_rule(recording: Recording, node: fx.Node) -> LayerError:
    """The error of an operation that no rule is known for."""
    return LayerError(
        f"LRP has no rule for the operation {recording.kind_of(node)} at {recording.name_of(node)!r}; explain a "
        "layer after it, or use a method that needs no rules, such as IntegratedGradients"
    )


def _user_name(path: str) -> str:
    return path.removeprefix("network").removeprefix(".")


def _argument(node: fx.Node, position: int, name: str) -> fx.Node:
    argument: fx.Node = node.args[position] if len(node.args) > position else node.kwargs[name]  # type: ignore[assignment]
    return argument


def _input_of(node: fx.Node) -> fx.Node:
    return _argument(node, 0, "input")


def _holds_numbers(value: Any) -> bool:
    """Whether a value is a tensor of real numbers, or a tuple with such tensors."""
    if isinstance(value, list | tuple):
        return any(_holds_numbers(part) for part in value)
    return isinstance(value, Tensor) and value.is_floating_point()
