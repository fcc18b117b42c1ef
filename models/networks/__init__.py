"""The networks themselves, and what patchd asks of any network: its final layer and its units in forward order."""

from .batch_renorm import BatchRenorm2d
from .efficientnet_lite import EfficientNetLite
from .mobilenet_v2 import MobileNetV2
from .parts import can_start_at, features_of, final_layer, reaching, starting_at, unit_of, units_of
from .ssdlite import SSDLite

__all__ = [
    "BatchRenorm2d",
    "EfficientNetLite",
    "MobileNetV2",
    "SSDLite",
    "can_start_at",
    "features_of",
    "final_layer",
    "reaching",
    "starting_at",
    "unit_of",
    "units_of",
]
