"""Grid settings: classifiers of grid images in which it is known what may influence which logit."""

from pellucid.evaluation.settings.difull import DiFull
from pellucid.evaluation.settings.grid_setting import GridSetting, GridSettingView
from pellucid.evaluation.settings.whole_grid import DiPart, GridPG, Order

__all__ = ["DiFull", "DiPart", "GridPG", "GridSetting", "GridSettingView", "Order"]
