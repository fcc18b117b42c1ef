"""Training patches within what a device can spare: the trainer and what it is made of."""

from .together import SharedTrainer
from .trainer import Trainer

__all__ = ["SharedTrainer", "Trainer"]
