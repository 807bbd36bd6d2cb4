"""Reading weights: every format gives the same tensors, nothing is run, a misfit names what does not fit."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pellucid.classifiers.loading.weights import (
    build_with_weights,
    copy_in_order,
    load_weights,
    read_state_dict,
)
from pellucid.errors import ModelError


def network(num_classes: int = 4) -> nn.Module:
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, num_classes))
    for tensor in module.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) * 9)
    return module.eval()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


WRITERS: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "safetensors": lambda state, path: save_file(state, path),
    "state dict": lambda state, path: torch.save(state, path),
    "before torch 1.6": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "checkpoint": lambda state, path: torch.save({"state_dict": state, "best_prec1": 93.6, "epoch": 3}, path),
    "model": lambda state, path: torch.save({"model": state, "optimizer": {"state": {}}}, path),
    "parallel": lambda state, path: torch.save({"state_dict": prefixed(state, "module.")}, path),
    "compiled": lambda state, path: torch.save(prefixed(state, "module._orig_mod."), path),
    "extra values": lambda state, path: torch.save({**state, "best_prec1": 93.6}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_of_saving_weights_loads_the_same_tensors(tmp_path: Path, writer: str) -> None:
    trained, fresh = network(), network()
    path = tmp_path / ("w.safetensors" if writer == "safetensors" else "w.pth")
    WRITERS[writer](trained.state_dict(), path)
    load_weights(fresh, path)
    assert same(fresh.state_dict(), trained.state_dict())


def test_half_precision_weights_are_cast_to_the_type_of_the_network(tmp_path: Path) -> None:
    trained, fresh = network(), network()
    torch.save({name: tensor.half() for name, tensor in trained.state_dict().items()}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt")
    assert torch.equal(fresh[0].weight, trained[0].weight.half().float())


def test_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    trained, fresh = network(), network()
    torch.save({n: t for n, t in trained.state_dict().items() if "num_batches" not in n}, tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt")
    assert torch.equal(fresh[1].running_var, trained[1].running_var)


def test_a_network_whose_own_names_start_with_module_keeps_them(tmp_path: Path) -> None:
    trained, fresh = (nn.Sequential(OrderedDict(module=network())) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(fresh, tmp_path / "w.pt")
    assert same(fresh.state_dict(), trained.state_dict())


def test_a_misfit_names_missing_unexpected_and_misshaped_tensors_and_changes_nothing(tmp_path: Path) -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items() if name != "4.bias"}
    torch.save({**state, "0.weight": torch.zeros(5, 3, 1, 1), "head.scale": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_weights(module, tmp_path / "w.pt")
    text = str(caught.value)
    assert "1 missing (4.bias)" in text
    assert "1 unexpected (head.scale)" in text
    assert "1 of another shape (0.weight is (5, 3, 1, 1), expected (5, 3, 3, 3))" in text
    assert same(module.state_dict(), before)


def test_a_long_list_of_misfits_is_cut_but_counted(tmp_path: Path) -> None:
    torch.save({"other": torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"8 missing \(0\.weight, 0\.bias, 1\.weight, \.\.\.\)"):
        load_weights(network(), tmp_path / "w.pt")


class RunsCode:
    """Pickles into a call of `os.mkdir`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "write",
    [
        lambda value, path: torch.save(value, path),
        lambda value, path: torch.save({"state_dict": value}, path),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=4)),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[object, Path], object]
) -> None:
    trace = tmp_path / "it-ran"
    write(RunsCode(trace), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"pickles are never run here.*convert it once"):
        read_state_dict(tmp_path / "w.pth")
    assert not trace.exists()


def test_a_pickled_network_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"never run here.*safetensors\.torch\.save_file"):
        read_state_dict(tmp_path / "w.pth")


def test_files_that_are_no_weights_are_errors_that_name_them(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    contents = {
        "empty.pth": (b"", "not a file of weights"),
        "text.pth": (b"hello", "not a file of weights"),
        "image.pth": (b"\xff\xd8\xff\xe0" + bytes(100), "not a file of weights"),
        "cut.pth": (whole[: len(whole) // 2], "cannot be read as weights"),
        "cut.safetensors": (b"\x08\x00\x00\x00\x00\x00\x00\x00{", "cannot be read as safetensors"),
        "empty.safetensors": (b"", "cannot be read as safetensors"),
    }
    for name, (content, complaint) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name}.*{complaint}"):
            read_state_dict(tmp_path / name)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no file of weights at .*nowhere\.pth"):
        read_state_dict(tmp_path / "nowhere.pth")
    with pytest.raises(ModelError, match="it is a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [({"epoch": 3, "lr": 0.1}, "keys epoch, lr"), ([torch.ones(2)], "a list"), (torch.ones(2), "a Tensor")],
)
def test_a_file_without_a_state_dict_is_an_error_that_says_what_it_holds(
    tmp_path: Path, content: object, found: str
) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=f"holds no state dict.*{found}"):
        read_state_dict(tmp_path / "w.pt")


def test_a_network_is_built_for_as_many_classes_as_the_weights_have(tmp_path: Path) -> None:
    trained = network(num_classes=7)
    torch.save(prefixed(trained.state_dict(), "module."), tmp_path / "w.pt")
    module, classes = build_with_weights(network, tmp_path / "w.pt", classes=4)
    assert classes == 7
    assert same(module.state_dict(), trained.state_dict())


def test_tensors_are_copied_by_order_under_other_names() -> None:
    trained, fresh = network(), network()
    state = {f"theirs{index}": tensor for index, tensor in enumerate(trained.state_dict().values())}
    copy_in_order(fresh, state, "a test")
    assert same(fresh.state_dict(), trained.state_dict())


def test_copying_by_order_names_the_first_tensor_that_does_not_fit() -> None:
    module = network()
    state = {f"theirs{index}": tensor for index, tensor in enumerate(module.state_dict().values())}
    with pytest.raises(ModelError, match="has 8 tensors, expected 9"):
        copy_in_order(module, dict(list(state.items())[:-1]), "a test")
    state["theirs3"], state["theirs7"] = torch.zeros(6), torch.zeros(1, 1)
    with pytest.raises(ModelError, match=r"theirs3 is \(6,\), expected \(5,\) for 1\.bias"):
        copy_in_order(module, state, "a test")


def test_real_checkpoints_of_cifar_networks_are_read_without_wrapper_prefix(shared_data: Path) -> None:
    state = read_state_dict(shared_data / "cifar10_resnets" / "resnet20-12fca82f.th")
    assert state["conv1.weight"].shape == (16, 3, 3, 3)
    assert state["linear.weight"].shape == (10, 64)
    assert "best_prec1" not in state
