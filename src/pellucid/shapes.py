"""Shapes in signatures: `Float[Tensor, "N C h w"]` is a tensor of real numbers of that shape.

One letter stands for one size throughout a signature; "..." for any sizes. The test run checks them with jaxtyping and
beartype. Where jaxtyping is not installed they are tensors to the reader only.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ModuleNotFoundError:

        class Float:
            """A tensor of real numbers."""

            def __class_getitem__(cls, kind_and_shape: tuple[Any, str]) -> Any:
                return kind_and_shape[0]

        Int = Float

__all__ = ["Float", "Int"]
