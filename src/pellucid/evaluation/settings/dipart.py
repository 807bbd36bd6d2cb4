"""DiPart: every head sees the block of the last map that belongs to its cell."""

from typing import Any

from torch import Tensor

from pellucid.classifiers import Classifier
from pellucid.evaluation.localization import Grid
from pellucid.evaluation.settings.blocks import block_masks, cut_blocks
from pellucid.evaluation.settings.check import check_whole_grid
from pellucid.evaluation.settings.whole_grid import HeadFunction, WholeGridSetting


class DiPart(WholeGridSetting):
    """The spatial part of the network sees the whole grid image; head k reads block k of the last map.

    Other cells can influence a head only as far as receptive fields reach over the border. Undefined where tokens
    attend to the whole image, and where the grid does not divide the last map. Source: Rao et al., Towards Better
    Understanding Attribution Methods, CVPR 2022, section 3.1.

    Args:
        classifier: of the cells; it must have a last spatial map followed by pooling and a head.
        n: n for n x n cells, or (rows, columns).
        head: name of the layer whose output is the last spatial map; by default the last with several positions in a
            cell, so a map of one position must be named.
        cell_size: (h, w) of the cells for the self-test; by default the classifier's input size.

    Raises:
        ModelError: the setting is undefined for this classifier, or a self-test fails; the message says why.
        LayerError: the grid does not divide the last map.

    >>> import pellucid as pl, torch
    >>> pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), *pooled)
    >>> DiPart(pl.Classifier(network.eval(), input_size=8), n=2).logits(torch.randn(1, 3, 16, 16)).shape
    torch.Size([1, 4, 2])
    """

    def __init__(
        self,
        classifier: Classifier,
        n: Grid = 2,
        *,
        head: str | None = None,
        cell_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(classifier, n, cell_size, head)
        self.head_numbers = tuple(range(self.grid[0] * self.grid[1]))
        check_whole_grid(self)

    def block_masks(self, height: int, width: int) -> Tensor:
        """Masks (heads, height, width) of the block of the last map that each head reads."""
        return block_masks(self.grid, self.head_numbers, height, width)

    def _read(self, maps: Any, head: HeadFunction) -> Any:
        return head(cut_blocks(maps, self.grid, self.head_numbers)).unflatten(0, (-1, self.heads))
