"""Any attribution method followed by Gaussian smoothing (S-IntGrad, S-IxG, ...)."""

from dataclasses import dataclass, replace

from pellucid.attribution.cases import Case
from pellucid.attribution.method import Attribution, Method
from pellucid.attribution.smoothing import gaussian_weights, smooth
from pellucid.attribution.view import View


@dataclass(frozen=True, kw_only=True)
class Smoothed(Method):
    """The maps of another method, smoothed at the layer's own resolution; that method's memory bounds hold.

    Attributes:
        method: the method whose maps are smoothed.
        kernel_size: odd number of cells; sigma is a quarter of it.
    """

    method: Method
    kernel_size: int

    def __post_init__(self) -> None:
        gaussian_weights(self.kernel_size)
        object.__setattr__(self, "max_batch", self.method.max_batch)
        object.__setattr__(self, "max_bytes", self.method.max_bytes)

    @property
    def signed(self) -> bool:
        return self.method.signed

    @property
    def label(self) -> str:
        return f"{self.method.label} smoothed over {self.kernel_size}"

    def needs_gradients(self, view: View) -> bool:
        """Where the smoothed method does."""
        return self.method.needs_gradients(view)

    def options(self) -> dict[str, object]:
        """The smoothed method's options and the kernel size."""
        return {**self.method.options(), "kernel_size": self.kernel_size}

    def attribute(self, case: Case) -> Attribution:
        """Maps of one case; smoothed maps promise no completeness, so there is no delta."""
        found = self.method.attribute(case)
        return replace(found, values=smooth(found.values, self.kernel_size), delta=None)
