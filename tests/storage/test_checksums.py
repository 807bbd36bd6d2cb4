"""Checksums: a changed byte anywhere in a file is seen, and files are what other programs can read."""

import hashlib
import json
import os
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pellucid.errors import PellucidError
from pellucid.evaluation.sweep.run_tables import TAG, arrow, encode_table, parquet, read_table, read_tag
from pellucid.evaluation.sweep.sweep_folder import SweepFolder
from pellucid.storage import (
    UNSEALED,
    DamagedFileError,
    check_file,
    decode_tensors,
    encode_tensors,
    read_json,
    read_tensors,
    seal,
    write_json,
    write_tensors,
)

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "mask": torch.tensor([True])}
RECORD = {"score": 0.25, "names": ["é", "b"], "nested": {"seed": 3}}


def flips(content: bytes, count: int, seed: int = 0) -> list[bytes]:
    """The content with one bit changed; in every byte where it is short."""
    chosen = random.Random(seed)
    places = range(len(content)) if len(content) <= count else chosen.sample(range(len(content)), count)
    changed = []
    for place in places:
        other = bytearray(content)
        other[place] ^= 1 << chosen.randrange(8)
        changed.append(bytes(other))
    return changed


def test_the_checksum_is_the_sha_256_of_the_file_with_zeros_in_its_place() -> None:
    content = b"head " + UNSEALED.encode() + b" tail"
    expected = hashlib.sha256(content).hexdigest().encode()
    assert seal(content) == b"head pellucid-sha256:" + expected + b" tail"


def test_a_place_for_the_checksum_is_there_once() -> None:
    for content in (b"", UNSEALED.encode() * 2, b"pellucid-sha256:0"):
        with pytest.raises(ValueError, match="places for a checksum"):
            seal(content)


def test_every_changed_bit_of_tensors_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for changed in flips(whole, 2000):
        with pytest.raises(DamagedFileError, match=r"file\.safetensors is damaged"):
            decode_tensors(changed, path)
    for length in (0, 1, 8, 100, len(whole) - 1):
        with pytest.raises(DamagedFileError):
            decode_tensors(whole[:length], path)


def test_every_changed_bit_of_a_record_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, RECORD)
    assert read_json(path) == RECORD
    for changed in flips(path.read_bytes(), 2000):
        path.write_bytes(changed)
        with pytest.raises(PellucidError, match=r"file\.json is damaged"):
            read_json(path)


def test_other_programs_read_the_tensors_and_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(encode_tensors(TENSORS, {"layer": "é"}))
    for read in (load_file(path), read_tensors(path)):
        assert read.keys() == TENSORS.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["layer"] == "é"
    assert decode_tensors(path.read_bytes(), path)[1] == {"layer": "é"}


def test_a_record_that_was_changed_by_hand_can_be_read_without_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, RECORD)
    record = json.loads(path.read_text()) | {"score": 0.5}
    path.write_text(json.dumps(record))
    with pytest.raises(PellucidError, match="changed it yourself, delete its entry 'checksum'"):
        read_json(path)
    del record["checksum"]
    path.write_text(json.dumps(record))
    assert read_json(path) == RECORD | {"score": 0.5}


def test_a_file_is_checked_again_after_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(seal(b"head " + UNSEALED.encode()))
    check_file(path)
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"head", b"heap"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamagedFileError):
        check_file(path)


def test_json_nested_without_end_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("[" * 100_000)
    with pytest.raises(PellucidError, match=r"file\.json is damaged"):
        read_json(path)


def test_a_name_that_is_not_utf_8_comes_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "file.json", {name: [name]})
    assert read_json(tmp_path / "file.json") == {name: [name]}
    assert re.search(r"caf\\udce9\.png", (tmp_path / "file.json").read_text())


def test_every_changed_bit_of_a_table_is_seen(tmp_path: Path) -> None:
    table = arrow().table({"score": [0.5, 0.25] * 50, "name": ["a", "b"] * 50, "map": [b"\x00\x01", b"\x02"] * 50})
    path = tmp_path / "table.parquet"
    path.write_bytes(encode_table(table, {TAG: "of this plan"}))
    assert (read_tag(path), read_table(path).to_pylist()) == ("of this plan", table.to_pylist())
    for changed in flips(path.read_bytes(), 300):
        path.write_bytes(changed)
        assert read_tag(path) == ""
        with pytest.raises(PellucidError, match=r"table\.parquet cannot be read .*damaged"):
            read_table(path)


def test_a_merged_table_has_a_checksum_and_other_programs_read_it(tmp_path: Path) -> None:
    parts = [arrow().table({"score": [float(part)] * 6000}) for part in range(3)]
    folder = SweepFolder(tmp_path)
    folder.merge(folder.table, parts[0].schema, iter(parts))
    assert read_table(folder.table).equals(arrow().concat_tables(parts))
    assert parquet().read_table(folder.table)["score"].to_pylist() == [0.0] * 6000 + [1.0] * 6000 + [2.0] * 6000
    for changed in flips(folder.table.read_bytes(), 100):
        folder.table.write_bytes(changed)
        with pytest.raises(PellucidError, match="damaged"):
            read_table(folder.table)
