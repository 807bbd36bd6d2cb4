"""The cut at every listed layer of every small network, against hooks on the network itself."""

import pytest
import torch
from tests.classifiers.oracles import as_map, classifier, module_layers, patches_only, reference, run_with
from tests.networks import CLASSES, NETWORKS, UNTRACEABLE, images, input_shape
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.classifiers import LayerView
from pellucid.errors import LayerError

EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)


def views(name: str) -> list[LayerView]:
    return [classifier(name).at(info.name) for info in classifier(name).layers()]


def mixture(logits: Tensor) -> Tensor:
    """One number per image, to which all logits contribute."""
    return logits @ torch.linspace(-1.0, 2.0, logits.shape[1])


def change(activation: Tensor) -> Tensor:
    return 0.5 * activation + 0.1


# --- Exactness, at every layer of every network


@EVERY_NETWORK
def test_the_parts_give_exactly_the_networks_logits_at_every_layer(name: str) -> None:
    for batch in (3, 1):
        x = images(name, batch)
        with torch.no_grad():
            wanted = reference(name)(x.clone())
        found = {view.layer: view.logits(view.activation(x)) for view in views(name)}
        assert [layer for layer, logits in found.items() if not torch.equal(logits, wanted)] == []


@EVERY_NETWORK
def test_the_activation_is_what_a_hook_sees_at_every_module(name: str) -> None:
    x = images(name)
    for layer in module_layers(name):
        activation = classifier(name).at(layer).activation(x)
        seen: list[Tensor] = []

        def look(native: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(native.clone())
            return native

        with torch.no_grad():
            run_with(reference(name), layer, x, look)
        assert torch.equal(activation, as_map(seen[0], activation.shape)), layer


@EVERY_NETWORK
def test_gradients_at_every_module_are_those_of_plain_autograd(name: str) -> None:
    x = images(name)
    for layer in module_layers(name):
        view = classifier(name).at(layer)
        activation = view.activation(x)
        leaf = activation.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(
            mixture(view.logits(leaf, activation.side_inputs)).sum(), leaf, allow_unused=True
        )
        leaves: list[Tensor] = []

        def as_leaf(native: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(native.detach().clone().requires_grad_())
            return leaves[0]

        logits = run_with(reference(name), layer, x, as_leaf)
        (wanted,) = torch.autograd.grad(mixture(logits).sum(), leaves[0], allow_unused=True)
        assert (found is None) == (wanted is None), layer
        if found is not None and wanted is not None:
            torch.testing.assert_close(found, as_map(wanted, found.shape), rtol=1e-4, atol=1e-7, msg=layer)


@EVERY_NETWORK
def test_a_changed_activation_acts_as_a_hook_that_replaces_it_at_every_module(name: str) -> None:
    x = images(name)
    for layer in module_layers(name):
        view = classifier(name).at(layer)
        activation = view.activation(x)
        with torch.no_grad():
            found = view.logits(change(activation), activation.side_inputs)
            wanted = run_with(reference(name), layer, x, patches_only(change, activation.shape))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=layer)


@EVERY_NETWORK
def test_rows_may_be_picked_and_repeated_at_every_layer(name: str) -> None:
    x, index = images(name), torch.tensor([2, 0, 2, 1])
    with torch.no_grad():
        wanted = reference(name)(x.clone())[index]
    for view in views(name):
        activation = view.activation(x)
        found = view.logits(activation[index], activation.side_inputs.rows(index))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=view.layer)


@EVERY_NETWORK
def test_a_plain_tensor_is_enough_where_nothing_else_crosses_and_a_clear_error_elsewhere(name: str) -> None:
    x = images(name)
    for view in views(name):
        activation = view.activation(x)
        plain = activation * 1.0
        if not view.side_input_names:
            assert torch.equal(view.logits(plain), view.logits(activation)), view.layer
            continue
        with pytest.raises(
            LayerError, match=r"cross the cut at .* pass side_inputs=a\.side_inputs\.rows\(index\)"
        ) as caught:
            view.logits(plain)
        assert all(crossing in str(caught.value) for crossing in view.side_input_names)


@EVERY_NETWORK
def test_a_listed_clean_cut_is_one_that_nothing_else_crosses(name: str) -> None:
    listed = {info.name: info.clean for info in classifier(name).layers()}
    found = {view.layer: not view.cut.names for view in views(name)}
    assert found == listed


@EVERY_NETWORK
def test_every_operation_after_the_cut_depends_on_the_activation(name: str) -> None:
    """Else it would be computed again and again for nothing."""
    for view in views(name):
        if view.suffix is None:
            assert name in UNTRACEABLE
            continue
        activation, *others = [node for node in view.suffix.graph.nodes if node.op == "placeholder"]
        assert len(others) == len(view.cut.names)
        needs_activation = {activation}
        for node in view.suffix.graph.nodes:
            if needs_activation & set(node.all_input_nodes):
                needs_activation.add(node)
        rest = [node for node in view.suffix.graph.nodes if node not in needs_activation]
        assert all(node.op in ("placeholder", "get_attr") or not node.all_input_nodes for node in rest), view.layer


# --- What crosses


def test_shortcuts_are_carried_and_named() -> None:
    clf = classifier("residual")
    assert clf.at("layer1").side_input_names == ()
    assert clf.at("layer1.0.conv1").side_input_names == ("relu",)
    assert clf.at("layer2.0.bn2").side_input_names == ("layer2.0.downsample",)  # it does not depend on the layer
    assert clf.at("layer2.0.downsample").side_input_names == ("layer2.0.bn2",)


def test_branches_are_carried_and_named() -> None:
    others = ("inception2.relu:0", "inception2.relu:2")
    assert classifier("inception").at("inception2.branch2.0").side_input_names == others
    assert set(classifier("dense").at("features.block2.layer1").side_input_names) == {
        "features.transition",
        "features.block2.layer0",
    }


def test_the_number_of_images_is_not_carried_but_read_off_the_activation() -> None:
    clf = classifier("batch_size_across")
    assert {info.name for info in clf.layers() if not info.clean} == set()
    x = images("batch_size_across", 2)
    activation = clf.at("conv1").activation(x)
    many = torch.cat([activation * 1.0] * 3)
    assert clf.at("conv1").logits(many).shape == (6, CLASSES)


def test_sizes_of_the_images_are_carried() -> None:
    clf = classifier("image_size_across")
    view = clf.at("conv2")
    assert view.suffix is not None
    assert len(view.side_input_names) == 3  # height, width and their ratio
    for size in ((32, 32), (20, 44)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(view.logits(view.activation(x)), clf.logits(x))


@pytest.mark.parametrize("name", ["windows", "sequence_first"])
def test_images_are_followed_along_whatever_axis_they_lie(name: str) -> None:
    """Four images are as many as the windows or heads per image: the length of an axis says nothing."""
    view = classifier(name).at("conv")
    assert view.suffix is not None
    assert len(view.side_input_names) == 1
    x = images(name, 16 if name == "sequence_first" else 4)
    activation = view.activation(x)
    for one in range(len(x)):
        row = torch.tensor([one])
        alone = view.logits(activation[row], activation.side_inputs.rows(row))
        torch.testing.assert_close(alone, reference(name)(x[row]), rtol=1e-5, atol=1e-6)


class BatchStatistics(nn.Module):
    """Images of a batch change each other's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_a_network_whose_images_change_each_other_is_refused() -> None:
    clf = pl.Classifier(BatchStatistics().eval(), input_size=16)
    with pytest.raises(LayerError, match="rows of the activation do not give their own images' logits"):
        clf.at("conv")


# --- Operations that write to their input


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("in_place_")])
def test_the_suffix_holds_no_operation_that_writes(name: str) -> None:
    clf = classifier(name)
    for layer in ("input", "conv1", "conv2"):
        view = clf.at(layer)
        activation = view.activation(images(name))
        before = activation.clone()
        view.logits(activation)
        assert torch.equal(activation, before)
        assert view.suffix is not None
        assert not any(str(node.target).endswith("_") for node in view.suffix.graph.nodes if node.op == "call_method")


def test_a_layer_before_an_in_place_operation_is_its_output_before_the_operation() -> None:
    name = "in_place_module"
    x = images(name)
    activation = classifier(name).at("conv1").activation(x)
    assert float(activation.min()) < 0
    torch.testing.assert_close(activation, reference(name).conv1(x), rtol=0, atol=0)


def test_a_shortcut_that_was_written_in_place_is_the_written_one() -> None:
    """The shortcut of `in_place_module` is the rectified tensor, though the ReLU's result is thrown away."""
    name = "in_place_module"
    view = classifier(name).at("activate:0")
    x = images(name)
    zeros = torch.zeros_like(view.activation(x))
    net = reference(name)
    with torch.no_grad():
        inner = net.conv2(zeros).relu()
        wanted = net.head(net.conv3(inner))  # the shortcut, one tensor with the layer, is zero too
    torch.testing.assert_close(view.logits(zeros), wanted)


def test_images_are_not_written_to_by_a_network_that_writes_to_its_input() -> None:
    for name in ("writes_to_its_input", "control_flow_in_place"):
        clf = classifier(name)
        x = images(name)
        before = x.clone()
        clf.logits(x)
        for info in clf.layers():
            view = clf.at(info.name)
            view.logits(view.activation(x))
        assert torch.equal(x, before)


def test_writing_with_out_is_left_to_replay() -> None:
    class WithOut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            torch.clamp(x, min=0.0, out=x)
            return self.fc(x.mean((2, 3)))

    net = WithOut().eval().requires_grad_(False)
    clf = pl.Classifier(net, input_size=16)
    x = torch.randn(3, 3, 16, 16)
    view = clf.at("conv")
    assert view.suffix is None
    assert torch.equal(view.logits(view.activation(x)), net(x))


# --- Live weights and the size of what is seen


@EVERY_NETWORK
def test_an_in_place_change_of_the_users_weights_is_seen(name: str) -> None:
    net = NETWORKS[name]()
    clf = pl.Classifier(net, input_size=input_shape(name))
    layer = "input" if name in ("windows", "sequence_first") else "final"
    view = clf.at(layer)
    x = images(name, 2)
    before = view.logits(view.activation(x))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.25)
        wanted = net(x.clone())
    found = view.logits(view.activation(x))
    assert not torch.allclose(found, before)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_loaded_weights_are_seen() -> None:
    net, other = NETWORKS["residual"](), NETWORKS["residual"]()
    nn.init.normal_(other.fc.weight)
    clf = pl.Classifier(net, input_size=32)
    view = clf.at("final")
    x = images("residual")
    net.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(view.logits(view.activation(x)), other.requires_grad_(False)(x))


def test_efficientnet_lite0_is_cut_exactly_at_and_inside_its_blocks_at_any_size() -> None:
    clf = pl.load("efficientnet_lite0", weights="random")
    net = clf._module.requires_grad_(False)
    for size in ((224, 224), (96, 160)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            wanted = net(x)
        for layer in ("input", "middle", "final", "blocks.2", "blocks.4.expand"):
            view = clf.at(layer)
            assert torch.equal(view.logits(view.activation(x)), wanted), (layer, size)
    assert clf.at("blocks.4.expand").side_input_names == ("blocks.3",)
    assert clf.at("final").is_affine
