""""""

from pellucid.storage.files import locked, write_atomically

__all__ = [
    "locked",
    "write_atomically",
]
