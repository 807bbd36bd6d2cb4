"""Files that are whole or not there, locks between processes, JSON records of dataclasses, and folders of runs."""

from pellucid.storage.files import replacing, write_atomically
from pellucid.storage.record_reader import RecordError
from pellucid.storage.records import (
    from_record,
    read_json,
    read_record,
    to_json,
    to_record,
    write_json,
    write_record,
)
from pellucid.storage.run_folder import Difference, RunFolder, RunFolderError, find_differences
from pellucid.storage.tensors import read_tensors, select_prefix, write_tensors

__all__ = [
    "Difference",
    "RecordError",
    "RunFolder",
    "RunFolderError",
    "find_differences",
    "from_record",
    "read_json",
    "read_record",
    "read_tensors",
    "replacing",
    "select_prefix",
    "to_json",
    "to_record",
    "write_atomically",
    "write_json",
    "write_record",
    "write_tensors",
]
