""""""

from pellucid.synthetic.idx import read_idx, read_mnist

__all__ = [
    "read_idx",
    "read_mnist",
]
