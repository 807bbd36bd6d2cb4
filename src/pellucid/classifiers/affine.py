"""Whether the part of a network after a layer is an affine function of the activation, read off its operations."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from pellucid.classifiers.tracing import descendants

_MODULES = (
    nn.Conv2d,
    nn.Linear,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout2d,
    nn.ZeroPad2d,
)
_FUNCTIONS: set[Callable[..., Any]] = {
    torch.flatten,
    torch.mean,
    torch.sum,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.cat,
    torch.add,
    torch.sub,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
    operator.add,
    operator.sub,
    operator.neg,
    operator.getitem,
    getattr,
}
_BILINEAR: set[Callable[..., Any]] = {operator.mul, torch.mul, F.linear, F.conv2d, torch.matmul, operator.matmul}
_METHODS = {
    *("mean", "sum", "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("size", "add", "sub", "unflatten"),
}


def is_affine(suffix: fx.GraphModule) -> bool:
    """Whether every operation that the activation (the first input) passes through is affine in it.

    False also where an operation is not known to be: a wrong "yes" would give wrong maps, a wrong "no" only costs time.
    """
    activation = next(node for node in suffix.graph.nodes if node.op == "placeholder")
    varying = descendants(activation)
    return all(
        _is_affine_in(suffix, node, varying)
        for node in suffix.graph.nodes
        if node in varying and node.op not in ("placeholder", "output")
    )


def _is_affine_in(suffix: fx.GraphModule, node: fx.Node, varying: set[fx.Node]) -> bool:
    if node.op == "call_module":
        return _is_affine_module(suffix.get_submodule(str(node.target)))
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op != "call_function":
        return False
    if node.target is F.dropout:
        return not (node.kwargs.get("training", node.args[2] if len(node.args) > 2 else True))
    operands: list[fx.Node] = []  # with repetition: x * x has two
    fx.map_arg((node.args, node.kwargs), operands.append)
    once = sum(used in varying for used in operands) == 1
    if node.target in (operator.truediv, torch.div):
        return once and node.args[:1] == (operands[0],) and not node.kwargs
    return once if node.target in _BILINEAR else node.target in _FUNCTIONS


def _is_affine_module(module: nn.Module) -> bool:
    # A hook, or a forward of its own, can make anything of a linear layer.
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return module.running_mean is not None
    return type(module) in _MODULES
