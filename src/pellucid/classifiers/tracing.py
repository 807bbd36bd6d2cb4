"""Trace a network with torch.fx into one list of operations, each with the name a user would call it by."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

ALIASES = ("input", "middle", "final")


class UntraceableError(Exception):
    """The forward cannot be traced; the network is cut by replay instead."""


@dataclass(frozen=True)
class TracedNetwork:
    """A network as a torch.fx graph.

    Attributes:
        module: the traced module; running it runs the network.
        outputs: layer name -> the node that yields its output. A module called k times appears as `name:0` ...
            `name:k-1`; a function is named by the module it was called in, as in `layer1.0.add`, and as in
            `layer1.0.relu_function` where there is a module of that name too.
        kinds: layer name -> module class or function name.

    >>> traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    >>> traced.outputs["1"].op, traced.last_call("0").name
    ('call_module', 'network_0')
    """

    module: fx.GraphModule
    outputs: dict[str, fx.Node]
    kinds: dict[str, str]

    @property
    def input(self) -> fx.Node:
        """The node that yields the images."""
        node: fx.Node = next(node for node in self.module.graph.nodes if node.op == "placeholder")
        return node

    @property
    def output(self) -> fx.Node:
        """The node that takes the logits."""
        node: fx.Node = next(node for node in self.module.graph.nodes if node.op == "output")
        return node

    def last_call(self, path: str) -> fx.Node | None:
        """The last call of a module, if the module is one operation of the trace."""
        nodes = [node for node in self.module.graph.nodes if node.op == "call_module"]
        return next((node for node in reversed(nodes) if _user_name(str(node.target)) == path), None)


class _ImagesOnly(nn.Module):
    """Calls the network with images alone, so that its other arguments keep their defaults while it is traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Any:
        return self.network(images)


def name_call(path: str, call: int, calls: int) -> str:
    """The layer name of one call of a module: its path, with the call's number where that is needed to tell.

    Args:
        path: of the module.
        call: which call of it.
        calls: how many there are.

    >>> name_call("relu", 1, 2), name_call("conv", 0, 1)
    ('relu:1', 'conv')
    """
    return path if calls == 1 and path not in ALIASES else f"{path}:{call}"


def parse_call(layer: str) -> tuple[str, int]:
    """The module path and the number of the call that a layer name stands for.

    >>> parse_call("relu"), parse_call("relu:1")
    (('relu', 0), ('relu', 1))
    """
    path, _, call = layer.partition(":")
    return path, int(call or 0)


def _user_name(path: str) -> str:
    return path.removeprefix("network").removeprefix(".")


class _NamingTracer(fx.Tracer):
    """Remembers every module call and every function call, by module path or by `path of the caller.function`.

    Attributes:
        failed_in: the innermost module whose forward raised, "" for the network's own or none.
    """

    def __init__(self, leaves: frozenset[type[nn.Module]]) -> None:
        super().__init__()
        self.failed_in = ""
        self._leaves = leaves
        self.modules: dict[str, list[tuple[fx.Node, str]]] = {}
        self.functions: dict[str, list[tuple[fx.Node, str]]] = {}
        self._inside: list[str] = []

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = _user_name(self.path_of_module(m))
        self._inside.append(path)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or path
            raise
        finally:
            self._inside.pop()
        if path and isinstance(result, fx.Proxy):
            self.modules.setdefault(path, []).append((result.node, type(m).__name__))
        return result

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or type(m) in self._leaves

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        node: fx.Node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if kind in ("call_function", "call_method"):
            function = (target if isinstance(target, str) else target.__name__).strip("_")
            path = ".".join(filter(None, [*self._inside[-1:], function]))
            self.functions.setdefault(path, []).append((node, function))
        return node


def trace(module: nn.Module) -> TracedNetwork:
    """Trace `module` and make every in-place operation out of place.

    Raises:
        UntraceableError: the forward cannot be traced, for instance because its control flow depends on data.

    >>> trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))).kinds
    {'0': 'Conv2d', '1': 'ReLU'}
    """
    tracer, graph = _traced_graph(module, frozenset())
    traced = fx.GraphModule(tracer.root, graph)
    _in_place_to_out_of_place(traced)
    paths = {path for path, _ in module.named_modules()}
    functions = {f"{path}_function" if path in paths else path: calls for path, calls in tracer.functions.items()}
    named = [
        (name_call(path, index, len(calls)), node, kind)
        for path, calls in [*tracer.modules.items(), *functions.items()]
        for index, (node, kind) in enumerate(calls)
    ]
    # A block's last operation has several names (`layer4`, `layer4.1`, `layer4.1.relu:1`); all stay valid.
    return TracedNetwork(traced, {name: node for name, node, _ in named}, {name: kind for name, _, kind in named})


def _traced_graph(module: nn.Module, leaves: frozenset[type[nn.Module]]) -> tuple[_NamingTracer, fx.Graph]:
    """Trace; a module without parts whose forward cannot be followed becomes one operation, as do all of its class."""
    tracer = _NamingTracer(leaves)
    try:
        return tracer, tracer.trace(_ImagesOnly(module))
    except Exception as error:  # any forward may raise anything when it is given proxies
        failed = module.get_submodule(tracer.failed_in)
        if failed is module or type(failed) in leaves or any(True for _ in failed.children()):
            raise UntraceableError(f"{type(error).__name__}: {error}") from error
    return _traced_graph(module, leaves | {type(failed)})


def _in_place_to_out_of_place(traced: fx.GraphModule) -> None:
    """Rewrite operations that overwrite their input; what later reads the overwritten tensor reads the result instead.

    A view of an overwritten tensor is not followed, and torch.fx traces `x += y` as `x = x + y`: whoever uses the trace
    compares it with the untraced network.
    """
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    # All are found before any is rewritten: one module may be called several times.
    for node in [node for node in traced.graph.nodes if _writes_its_input(traced, node)]:
        written = _first_argument(node)
        _make_out_of_place(traced, node)
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)
    traced.graph.lint()
    traced.recompile()


def _first_argument(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs.get("input")


def _writes_its_input(traced: fx.GraphModule, node: fx.Node) -> bool:
    if "out" in node.kwargs:
        raise UntraceableError(f"{node.name} writes to a tensor given as out=")
    if not isinstance(_first_argument(node), fx.Node):
        return False
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_function":
        return _function_without_writing(node.target) is not None or bool(_arguments(node).get("inplace", False))
    return node.op == "call_method" and _method_without_writing(str(node.target)) is not None


def _make_out_of_place(traced: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        # The traced module is pellucid's own copy, so the user's flag stays as it is.
        traced.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
    elif node.op == "call_method":
        node.target = _method_without_writing(str(node.target)) or node.target
    elif (function := _function_without_writing(node.target)) is not None:
        node.target = function
    else:
        node.args, node.kwargs = (), _arguments(node) | {"inplace": False}


def _function_without_writing(function: Any) -> Callable[..., Any] | None:
    """torch.relu for torch.relu_; None for functions that do not write."""
    plain = _without_underscore(getattr(function, "__name__", ""))
    plain_function = None if plain is None else getattr(torch, plain, getattr(nn.functional, plain, None))
    return plain_function if callable(plain_function) else None


def _method_without_writing(method: str) -> str | None:
    """`relu` for `relu_`; None for methods that do not write.

    Raises:
        UntraceableError: the method writes and has no counterpart that does not, such as `copy_`.
    """
    plain = _without_underscore(method)
    if plain is not None and not callable(getattr(torch.Tensor, plain, None)):
        raise UntraceableError(f"the method {method} writes to its tensor and nothing else computes the same")
    return plain


def _without_underscore(name: str) -> str | None:
    return name[:-1] if name.endswith("_") and not name.startswith("_") else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of a Python function by name; built-in functions, which have no signature, have no `inplace` either."""
    assert callable(node.target)
    try:
        return dict(inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments)
    except (TypeError, ValueError):
        return {}


def descendants(start: fx.Node) -> set[fx.Node]:
    """All nodes computed from `start`, itself included.

    >>> traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    >>> sorted(node.name for node in descendants(traced.outputs["0"]))
    ['network_0', 'network_1', 'output']
    """
    nodes, frontier = {start}, [start]
    while frontier:
        for user in frontier.pop().users:
            if user not in nodes:
                nodes.add(user)
                frontier.append(user)
    return nodes


def ancestors(ends: Iterable[fx.Node], stop: Iterable[fx.Node] = ()) -> set[fx.Node]:
    """All nodes that `ends` are computed from, themselves included; the search does not go past `stop`.

    >>> traced = trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    >>> sorted(node.name for node in ancestors([traced.outputs["0"]]))
    ['images', 'network_0']
    """
    nodes: set[fx.Node] = set()
    stopped, frontier = set(stop), list(ends)
    while frontier:
        node = frontier.pop()
        if node not in nodes:
            nodes.add(node)
            if node not in stopped:
                frontier.extend(node.all_input_nodes)
    return nodes
