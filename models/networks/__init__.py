"""The networks themselves, and what patchd asks of any network: its final layer and its units in forward order."""

from .batch_renorm import BatchRenorm2d
from .efficientnet_lite import EfficientNetLite
from .mobilenet_v2 import MobileNetV2
from .parts import features_of, final_layer, unit_of, units_of
from .ssdlite import SSDLite

__all__ = [
    "BatchRenorm2d",
    "EfficientNetLite",
    "MobileNetV2",
    "SSDLite",
    "features_of",
    "final_layer",
    "unit_of",
    "units_of",
]
