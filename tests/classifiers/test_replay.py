"""Networks that cannot be traced: what is run again and what is not, paths around the recording, the last resort."""

from collections import Counter
from typing import ClassVar

import pytest
import torch
from tests.classifiers.oracles import classifier, reference, run_with
from tests.networks import NETWORKS, UNTRACEABLE, images, input_shape
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid as pl
from pellucid.classifiers.replay import ReplayCut, module_outputs
from pellucid.errors import LayerError


class Counting(nn.Module):
    """Counts how often each of its convolutions runs, all copies of the network together."""

    runs: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = Counted("stem", 3), Counted("left", 4), Counted("right", 4)
        self.inner = nn.Sequential(Counted("inner", 4), nn.ReLU())
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if bool(x.max() > 1e6):
            x = self.left(x)
        around = self.left(x)
        x = self.inner(self.right(x)) + around
        return self.fc(x.mean((2, 3)))


class Counted(nn.Conv2d):
    """A convolution that says when it runs."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__(channels, 4, 3, padding=1)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        Counting.runs[self.name] += 1
        return super().forward(x)


def runs(call: object) -> dict[str, int]:
    """How often each convolution runs during a call."""
    Counting.runs.clear()
    assert callable(call)
    call()
    return dict(Counting.runs)


@pytest.fixture
def counting() -> pl.Classifier:
    return pl.Classifier(Counting().eval(), input_size=16)


# --- What runs again


def test_modules_before_the_layer_run_once_and_never_again(counting: pl.Classifier) -> None:
    x = torch.randn(2, 3, 16, 16)
    view, last = counting.at("right"), counting.at("fc")
    assert view.suffix is None
    assert runs(lambda: view.activation(x)) == {"stem": 1, "left": 1, "right": 1}
    activation = view.activation(x)
    assert runs(lambda: view.logits(activation)) == {"inner": 1}
    assert runs(lambda: last.logits(last.activation(x))) == {"stem": 1, "left": 1, "right": 1, "inner": 1}


def test_what_a_layers_module_does_inside_is_not_run_again(counting: pl.Classifier) -> None:
    view = counting.at("inner")
    activation = view.activation(torch.randn(2, 3, 16, 16))
    assert runs(lambda: view.logits(activation)) == {}


def test_gradients_do_not_run_what_was_recorded(counting: pl.Classifier) -> None:
    view = counting.at("right")
    x = torch.randn(2, 3, 16, 16)
    activation = view.activation(x)
    leaf = activation.clone().requires_grad_()
    assert runs(lambda: view.logits(leaf, activation.side_inputs).sum().backward()) == {"inner": 1}
    assert leaf.grad is not None


def test_another_image_does_not_get_the_recording_of_the_first(counting: pl.Classifier) -> None:
    view = counting.at("right")
    first, second = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    one, two = view.activation(first), view.activation(second)
    with torch.no_grad():
        for x, activation in ((first, one), (second, two), (first, one)):
            torch.testing.assert_close(view.logits(activation), counting.logits(x))
        swapped = view.logits(one.clone(), two.side_inputs)
    assert not torch.allclose(swapped, counting.logits(first))


@pytest.mark.parametrize("name", sorted(UNTRACEABLE))
def test_what_is_carried_is_named(name: str) -> None:
    for info in classifier(name).layers()[1:]:
        view = classifier(name).at(info.name)
        assert view.side_input_names == ("input", "the recorded outputs before the layer")
        assert view.suffix is None
        assert not info.clean
    assert classifier(name).at("input").side_input_names == ()


# --- Control flow


class Branching(nn.Module):
    """Bright batches take another path than the probes, through a module that the probes do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rare, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if bool(x.amin() > 10.0) or bool(x.amax() > 10.0):
            x = x + self.rare(x)
        return self.fc(F.relu(self.body(x)).mean((2, 3)))


def changed(native: Tensor) -> Tensor:
    return 0.5 * native + 0.1


def test_images_that_take_another_path_than_the_probes_are_cut_right_too() -> None:
    net = Branching().eval().requires_grad_(False)
    clf = pl.Classifier(net, input_size=12)
    x = 100 * torch.randn(3, 3, 12, 12)
    index = torch.tensor([2, 2, 0])
    for layer in ("stem", "body"):
        view = clf.at(layer)
        activation = view.activation(x)
        assert torch.equal(view.logits(activation), net(x))
        found = view.logits(changed(activation), activation.side_inputs)
        torch.testing.assert_close(found, run_with(net, layer, x, changed))
        rows = view.logits(changed(activation)[index], activation.side_inputs.rows(index))
        torch.testing.assert_close(rows, found[index])
    with pytest.raises(LayerError, match="module 'rare' is not a layer"):
        clf.at("rare")


def test_a_layer_that_these_images_do_not_pass_is_a_clear_error() -> None:
    class Dark(Branching):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            if bool(x.amax() < 20.0):
                x = x + self.rare(x)
            return self.fc(x.mean((2, 3)))

    clf = pl.Classifier(Dark().eval(), input_size=12)
    with pytest.raises(LayerError, match="module 'rare' is called fewer than 1 times"):
        clf.at("rare").activation(100 * torch.randn(1, 3, 12, 12))


def test_every_call_of_a_module_in_a_loop_is_a_layer_of_its_own() -> None:
    clf, x = classifier("loop"), images("loop")
    first, second = (clf.at(f"block:{call}") for call in (0, 1))
    a = first.activation(x)
    with torch.no_grad():
        net = reference("loop")
        stem = net.stem(x)
        zeros = torch.zeros_like(a)
        torch.testing.assert_close(first.logits(zeros, a.side_inputs), net.head(stem + net.block(stem)))
        torch.testing.assert_close(
            second.logits(zeros, second.activation(x).side_inputs), net.head(stem + net.block(stem))
        )
        ones = torch.ones_like(a)
        torch.testing.assert_close(first.logits(ones, a.side_inputs), net.head(stem + ones + net.block(stem + ones)))


def test_a_user_who_catches_every_exception_does_not_stop_a_recording() -> None:
    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            try:
                x = self.conv(x) if bool(x.max() < 1e6) else x
            except Exception:
                x = torch.zeros(len(x), 4, 1, 1)
            return self.fc(x.mean((2, 3)))

    net = Catching().eval().requires_grad_(False)
    view = pl.Classifier(net, input_size=8).at("conv")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(view.logits(view.activation(x)), net(x))


# --- Paths around the recording, and the last resort


def test_a_memory_of_a_module_is_a_path_around_the_recording_and_everything_runs_again() -> None:
    """The gate is computed in a module that ends before the layer, and used after it."""
    net, view = reference("remembers"), classifier("remembers").at("block")
    first, second = images("remembers", seed=1), images("remembers", seed=2)
    one, two = view.activation(first), view.activation(second)
    index = torch.tensor([2, 0])
    for x, activation in ((first, one), (second, two), (first, one)):
        torch.testing.assert_close(view.logits(activation), net(x))
        torch.testing.assert_close(view.logits(activation[index], activation.side_inputs.rows(index)), net(x[index]))
    assert view.cut._run_layer


class Memoising(nn.Module):
    """Keeps what it has computed for a shape until its stem runs again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = Forgetting(), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        shape = tuple(x.shape)
        if shape not in self.stem.memory:
            self.stem.memory[shape] = x.relu().mean((2, 3))
        return self.fc(self.stem.memory[shape])


class Forgetting(nn.Conv2d):
    """A convolution that empties a memory."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.memory: dict[tuple[int, ...], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.memory.clear()
        return super().forward(x)


def test_what_a_network_remembers_of_one_activation_is_not_taken_for_another() -> None:
    net = Memoising().eval().requires_grad_(False)
    view, x = pl.Classifier(net, input_size=12).at("block"), torch.randn(2, 3, 12, 12)
    activation = view.activation(x)
    for change in (changed, torch.zeros_like, torch.clone):
        found = view.logits(change(activation), activation.side_inputs)
        torch.testing.assert_close(found, run_with(net, "block", x, change))


def test_a_gate_computed_inside_the_layer_itself_is_computed_again() -> None:
    net, view = reference("remembers"), classifier("remembers").at("gate")
    x = images("remembers")
    activation = view.activation(x)
    found = view.logits(changed(activation), activation.side_inputs)
    torch.testing.assert_close(found, run_with(net, "gate", x, changed))


def test_outputs_of_the_users_own_kind_are_not_recorded_but_computed_again() -> None:
    view, net = classifier("own_outputs").at("mix"), reference("own_outputs")
    x, index = images("own_outputs"), torch.tensor([1, 1, 2, 0])
    activation = view.activation(x)
    assert not view.cut._run_layer
    assert [call for call in view.cut._patterns if call[0] == "encoder"] == []
    torch.testing.assert_close(view.logits(activation[index], activation.side_inputs.rows(index)), net(x[index]))


def test_a_network_that_changes_from_run_to_run_is_refused() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.dropout(self.conv(x), training=True).mean((2, 3)))

    clf = pl.Classifier(Noisy().eval(), input_size=8)
    for layer in ("conv", "input"):
        with pytest.raises(LayerError, match=f"cannot cut at '{layer}'; .*do not give the network's logits"):
            clf.at(layer)


def test_a_module_written_in_place_changes_who_else_holds_its_input() -> None:
    """`control_flow_in_place` throws its ReLUs' results away; the recording must still change the shortcut."""
    name = "control_flow_in_place"
    view, net = classifier(name).at("relu:0"), reference(name)
    x = images(name)
    activation = view.activation(x)
    zeros = torch.zeros_like(activation)
    with torch.no_grad():
        wanted = net.head(net.conv3(net.conv2(zeros).relu()))
    torch.testing.assert_close(view.logits(zeros, activation.side_inputs), wanted)
    assert not view.cut._run_layer


# --- The pieces


def test_the_forwards_of_the_twin_are_its_own_again_after_a_run_and_after_an_error() -> None:
    net = NETWORKS["control_flow"]()
    cut = ReplayCut(net, "block", 0)
    before = {path: dict(vars(part)) for path, part in net.named_modules()}
    activation, side_inputs = cut.before(images("control_flow"))
    cut.after(activation, side_inputs)
    with pytest.raises(RuntimeError):
        cut.after(activation[:, :2], side_inputs)
    with pytest.raises(LayerError, match="module 'block' is called fewer than 8 times"):
        ReplayCut(net, "block", 7).before(images("control_flow"))
    assert {path: dict(vars(part)) for path, part in net.named_modules()} == before


def test_a_forward_that_the_user_has_put_on_a_module_stays() -> None:
    net = NETWORKS["control_flow"]()
    net.rare.forward = net.merge.forward
    ReplayCut(net, "block", 0).before(images("control_flow"))
    assert net.rare.forward == net.merge.forward


def test_module_outputs_come_in_the_order_in_which_calls_end() -> None:
    net = reference("control_flow")
    with torch.no_grad():
        outputs, logits = module_outputs(net, images("control_flow"))
    paths = [path for path, _ in outputs]
    assert paths.index("stem.0") < paths.index("stem.1") < paths.index("stem") < paths.index("block.conv1")
    assert "rare" not in paths
    assert torch.equal(logits, net(images("control_flow")))


@pytest.mark.parametrize("name", sorted(UNTRACEABLE))
def test_replayed_networks_run_at_other_sizes_than_the_probes(name: str) -> None:
    channels = input_shape(name)[0]
    for size in ((32, 32), (48, 20)):
        x = torch.randn(2, channels, *size)
        view = classifier(name).at("final")
        with torch.no_grad():
            assert torch.equal(view.logits(view.activation(x)), reference(name)(x.clone()))
