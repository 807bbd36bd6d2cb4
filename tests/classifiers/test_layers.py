"""The listing of layers, the aliases, and what is said about a layer that does not exist."""

from collections import Counter

import pytest
import torch
from tests.classifiers.oracles import classifier, module_layers, reference
from tests.networks import CLASSES, NETWORKS, UNTRACEABLE, input_shape
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.classifiers import LayerInfo
from pellucid.errors import LayerError

EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)

ALIASES = {
    # network: (middle, final)
    "gap_linear": ("1", "3"),
    "nested_sequential": ("features.0.2", "features.1.1"),
    "flatten_head": ("features.1", "features.4"),
    "functional_relu": ("relu:0", "relu:1"),
    "gray": ("relu:0", "relu:1"),
    "gelu": ("gelu:0", "gelu:1"),
    "one_logit": ("relu:0", "relu:1"),
    "reused_relu": ("relu:1", "relu_function"),
    "weight_norm": ("relu:0", "relu:1"),
    "hooked": ("1", "3"),
    "preactivation": ("add:0", "add:1"),
    "writes_to_its_input": ("features.1", "features.3"),
    "view_in_place": ("conv1", "conv2"),
    "writes_by_index": ("conv1", "conv2"),
    "residual": ("layer2", "layer3"),
    "dense": ("features.block1", "relu"),
    "inception": ("inception1", "inception2"),
    "squeeze_excite": ("3", "6"),
    "called_twice": ("block.1:0", "add"),
    "batch_size_across": ("relu:0", "relu:1"),
    "vit": ("blocks.0", "blocks.1"),
    "vit_two_tokens": ("blocks.0", "blocks.1"),
    "vit_five_tokens": ("blocks.0", "blocks.1"),
    "vit_mean": ("blocks.1", "norm"),
    "channels_last_blocks": ("blocks.0", "norm"),
    "default_arguments": ("features.0", "mul"),
    "names_of_aliases": ("relu:0", "relu:1"),
    "control_flow": ("block", "merge"),
    "loop": ("block:0", "block:1"),
}


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {info.name: info.shape for info in classifier(name).layers()}


def kinds(name: str) -> dict[str, str]:
    return {info.name: info.kind for info in classifier(name).layers()}


# --- The listing


@EVERY_NETWORK
def test_every_module_call_that_a_hook_sees_is_listed_with_its_class_in_order(name: str) -> None:
    """All but the modules whose output is no map, tokens or vector per image."""
    net, calls, seen = reference(name), Counter[str](), []
    paths = {part: path for path, part in net.named_modules() if path}

    def hook(module: nn.Module, inputs: object, output: object) -> None:
        call = calls[paths[module]]
        calls[paths[module]] += 1
        if isinstance(output, Tensor) and len(output) == 7:
            seen.append((paths[module], call, type(module).__name__))

    handles = [part.register_forward_hook(hook) for part in paths]
    with torch.no_grad():
        net(torch.randn(7, *input_shape(name)))
    for handle in handles:
        handle.remove()
    reserved = ("input", "middle", "final")
    wanted = {path if calls[path] == 1 and path not in reserved else f"{path}:{k}": kind for path, k, kind in seen}
    listed = {layer: kinds(name)[layer] for layer in module_layers(name) if layer != "input"}
    assert listed == wanted
    assert len(shapes(name)) == len(classifier(name).layers())


@EVERY_NETWORK
def test_every_listed_shape_is_the_activations(name: str) -> None:
    x = torch.randn(1, *input_shape(name))
    for layer, shape in shapes(name).items():
        assert classifier(name).at(layer).activation(x).shape == (1, *shape), layer


@EVERY_NETWORK
def test_the_input_comes_first_and_the_logits_last(name: str) -> None:
    layers = classifier(name).layers()
    logits = 1 if name == "one_logit" else CLASSES
    assert layers[0] == LayerInfo("input", "input", input_shape(name), True)
    assert layers[-1].shape == (logits, 1, 1)
    assert all(layer.name for layer in layers)


def test_untraceable_networks_are_known_and_say_why() -> None:
    failures = {name: classifier(name)._network for name in NETWORKS}
    for network in failures.values():
        assert network.layers
    assert {name for name, network in failures.items() if network.trace_failure} == UNTRACEABLE
    assert failures["control_flow"].trace_failure.startswith("TraceError")
    assert failures["view_in_place"].trace_failure == "the trace does not give the network's logits"
    assert failures["asks_for_a_tensor"].trace_failure.startswith("the trace does not run: ")


def test_functions_are_listed_by_the_module_that_calls_them() -> None:
    assert kinds("residual")["layer1.0.add"] == "add"
    assert kinds("functional_relu")["relu:1"] == "relu"
    assert kinds("squeeze_excite")["5.sigmoid"] == "sigmoid"


def test_a_function_called_like_a_module_does_not_take_the_modules_name() -> None:
    listed = kinds("reused_relu")
    assert (listed["relu:0"], listed["relu:1"], listed["relu_function"]) == ("ReLU", "ReLU", "relu")
    assert "relu:2" not in listed


def test_a_module_called_like_an_alias_can_still_be_reached() -> None:
    clf = classifier("names_of_aliases")
    assert {"input", "input:0", "middle:0", "final:0"} <= set(shapes("names_of_aliases"))
    assert clf.at("input").layer == "input"
    assert clf.at("final:0").activation(torch.randn(1, 3, 32, 32)).shape == (1, CLASSES, 1, 1)
    assert clf.at("final").layer == "relu:1"


def test_names_of_one_output_share_a_position_and_its_operation() -> None:
    layers = {info.name: info for info in classifier("residual").layers()}
    names = ("layer3", "layer3.0", "layer3.0.relu:1")
    assert len({layers[name].position for name in names}) == 1
    assert {layers[name].operation for name in names} == {"ReLU"}


def test_an_in_place_relu_of_a_replayed_network_is_another_layer_than_what_it_overwrites() -> None:
    layers = {info.name: info for info in classifier("control_flow").layers()}
    assert layers["stem.0"].position < layers["stem.1"].position == layers["stem"].position
    assert (layers["stem.0"].operation, layers["stem"].operation) == ("Conv2d", "ReLU")


def test_a_depth_leaves_out_what_lies_deeper() -> None:
    clf = classifier("residual")
    names = [info.name for info in clf.layers(depth=0)]
    assert names == ["input", "conv1", "bn1", "relu", "layer1", "layer2", "layer3", "avgpool", "flatten", "fc"]
    assert len(clf.layers(depth=0)) < len(clf.layers(depth=1)) < len(clf.layers())


def test_maps_with_one_channel_and_no_channel_axis_are_no_tokens() -> None:
    """`x[:, 0]` of 32 px images is (N, 32, 32), which could be read as 5 x 5 tokens after seven leading ones."""
    assert not any("getitem" in name for name in shapes("inception"))


def test_the_listing_is_the_callers_own() -> None:
    classifier("residual").layers().clear()
    assert classifier("residual").layers()


# --- Aliases


@pytest.mark.parametrize(("name", "middle", "final"), [(name, *pair) for name, pair in ALIASES.items()])
def test_middle_and_final_are_the_layers_an_expert_would_name(name: str, middle: str, final: str) -> None:
    clf = classifier(name)
    assert (clf.resolve("middle"), clf.resolve("final")) == (middle, final)
    assert clf.resolve("input") == "input"


@EVERY_NETWORK
def test_middle_does_not_come_after_final_and_final_has_extent_and_tells_of_the_logits(name: str) -> None:
    clf = classifier(name)
    names = [info.name for info in clf.layers()]
    assert 0 < names.index(clf.resolve("middle")) <= names.index(clf.resolve("final"))
    view = clf.at("final")
    activation = view.activation(torch.randn(1, *input_shape(name)))
    assert activation.shape[2] * activation.shape[3] > 1
    leaf = activation.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(view.logits(leaf, activation.side_inputs)[0, 0], leaf)
    assert bool(gradient.any())


def test_final_of_a_network_with_a_head_of_zeros_is_its_last_map() -> None:
    net = NETWORKS["residual"]()
    nn.init.zeros_(net.fc.weight)
    assert pl.Classifier(net, input_size=32).resolve("final") == "layer3"


def test_finding_final_takes_one_pass_whatever_the_depth() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            return x

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = Counting()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(20))
            self.fc = nn.Linear(3, 2)
            nn.init.zeros_(self.fc.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.count(x) if bool(x.max() < 1e6) else x
            for conv in self.convs:
                x = conv(x).relu()
            return self.fc(x.mean((2, 3)))

    clf = pl.Classifier(Deep().eval(), input_size=8)
    assert len(clf.layers()) > 20
    before = Counting.calls
    assert clf.resolve("final") == "convs.19"
    assert Counting.calls == before + 1


def test_final_is_found_where_the_network_overwrites_what_its_backward_needs() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).sigmoid() if bool(x.max() < 1e6) else self.conv(x)
            x += 1.0
            return self.fc(x.mean((2, 3)))

    assert pl.Classifier(Overwrites().eval(), input_size=8).resolve("final") == "conv"


def test_aliases_may_be_given() -> None:
    net = reference("residual")
    clf = pl.Classifier(net, input_size=32, aliases={"final": "layer2", "middle": "layer1.0"})
    assert (clf.at("final").layer, clf.at("middle").layer) == ("layer2", "layer1.0")
    assert pl.Classifier(net, input_size=32, aliases={"final": "layer2"}).resolve("middle") == "layer1"


@pytest.mark.parametrize("alias", ["final", "middle"])
def test_an_alias_for_a_layer_that_does_not_exist_is_a_clear_error(alias: str) -> None:
    clf = pl.Classifier(reference("residual"), input_size=32, aliases={"final": "layer9"})
    with pytest.raises(LayerError, match=r"no layer 'layer9'; did you mean layer[123]"):
        clf.resolve(alias)


def test_a_network_without_maps_has_no_final_layer() -> None:
    clf = pl.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(), input_size=4)
    for alias in ("final", "middle"):
        with pytest.raises(LayerError, match="no layer of this network has spatial extent"):
            clf.resolve(alias)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["residual", "control_flow_in_place"])
def test_layers_are_found_whatever_the_gradient_mode(name: str, context: type) -> None:
    network = reference(name)  # kept for other tests: made in inference mode, its weights could have no gradients
    with context():
        clf = pl.Classifier(network, input_size=32)
        layers, final = clf.layers(), clf.at("final").layer
    assert layers == classifier(name).layers()
    assert final == classifier(name).resolve("final")
    view, x = clf.at("middle"), torch.randn(2, *input_shape(name))
    leaf = view.activation(x).clone().requires_grad_()
    view.logits(leaf, view.activation(x).side_inputs).sum().backward()
    assert leaf.grad is not None


# --- Names that do not exist


def test_a_misspelt_alias_is_named() -> None:
    model = classifier("gap_linear")
    with pytest.raises(LayerError, match=r"no layer 'finale'; did you mean final"):
        model.at("finale")


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(LayerError, match=r"no layer 'layr2'; did you mean .*layer2"):
        classifier("residual").at("layr2")


def test_a_layer_that_resembles_nothing_points_to_the_listing() -> None:
    with pytest.raises(LayerError, match=r"no layer 'xyzzy'; see classifier\.layers\(\)"):
        classifier("residual").at("xyzzy")


def test_a_module_called_several_times_lists_its_calls() -> None:
    with pytest.raises(LayerError, match="'block' is called 2 times; choose one of block:0, block:1"):
        classifier("called_twice").at("block")


def test_a_call_too_many_names_the_nearest() -> None:
    with pytest.raises(LayerError, match=r"no layer 'block:2'; did you mean .*block:1"):
        classifier("called_twice").at("block:2")


@pytest.mark.parametrize(("name", "module"), [("structured_outputs", "pyramid"), ("own_outputs", "encoder")])
def test_a_module_that_yields_no_tensor_says_so(name: str, module: str) -> None:
    with pytest.raises(LayerError, match=f"module '{module}' is not a layer: it yields no map, tokens or vector"):
        classifier(name).at(module)


def test_a_module_that_the_logits_do_not_depend_on_is_no_layer() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.aside, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            self.aside(x)
            return self.fc(x.mean((2, 3)))

    clf = pl.Classifier(Auxiliary().eval(), input_size=8)
    with pytest.raises(LayerError, match=r"module 'aside' is not a layer: .* the logits do not depend on it"):
        clf.at("aside")


def test_tokens_are_listed_as_the_map_they_form() -> None:
    assert shapes("vit")["blocks.0"] == (12, 4, 4)
