"""Grid settings: classifiers of grid images in which it is known what may influence which logit."""

from pellucid.evaluation.settings.difull import DiFull
from pellucid.evaluation.settings.dipart import DiPart
from pellucid.evaluation.settings.grid_setting import GridSetting, GridSettingView
from pellucid.evaluation.settings.gridpg import GridPG, Order

__all__ = ["DiFull", "DiPart", "GridPG", "GridSetting", "GridSettingView", "Order"]
