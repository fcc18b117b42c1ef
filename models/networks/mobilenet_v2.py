"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): inverted residuals with linear bottlenecks.

The blocks are those of EfficientNet-Lite, which took them from here: ReLU6, TensorFlow's padding, batch normalisation.
"""

from __future__ import annotations

from .efficientnet_lite import InvertedResidualNetwork, Stage, scaled_channels

STEM_CHANNELS = 32
NECK_CHANNELS = 1280

STAGES = (  # table 2 of the paper
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)


class MobileNetV2(InvertedResidualNetwork):
    """The network. `width` is the paper's width multiplier; its resolution multiplier is the side of the input alone.

    The stem scales with the width, the neck only with a width above 1 (section 4.1). `depth`, which the paper does not
    have, scales the repeats of the blocks as EfficientNet does.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> None:
        stem, neck = scaled_channels(STEM_CHANNELS, width), scaled_channels(NECK_CHANNELS, max(1.0, width))
        super().__init__(STAGES, stem, neck, width=width, depth=depth, classes=classes)
