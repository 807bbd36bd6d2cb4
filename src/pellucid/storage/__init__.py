"""Files that are whole or not there, locks between processes, JSON records of dataclasses, and folders of runs."""

from pellucid.storage.checksums import CHECKSUM, UNSEALED, DamagedFileError, check_file, is_whole, seal
from pellucid.storage.files import replacing, write_atomically
from pellucid.storage.json_files import decode_json, encode_json, read_json, write_json
from pellucid.storage.record_reader import RecordError
from pellucid.storage.records import (
    from_record,
    read_record,
    to_json,
    to_record,
    write_record,
)
from pellucid.storage.run_folder import Difference, RunFolder, RunFolderError, find_differences
from pellucid.storage.tensors import decode_tensors, encode_tensors, read_tensors, select_prefix, write_tensors

__all__ = [
    "CHECKSUM",
    "UNSEALED",
    "DamagedFileError",
    "Difference",
    "RecordError",
    "RunFolder",
    "RunFolderError",
    "check_file",
    "decode_json",
    "decode_tensors",
    "encode_json",
    "encode_tensors",
    "find_differences",
    "from_record",
    "is_whole",
    "read_json",
    "read_record",
    "read_tensors",
    "replacing",
    "seal",
    "select_prefix",
    "to_json",
    "to_record",
    "write_atomically",
    "write_json",
    "write_record",
    "write_tensors",
]
