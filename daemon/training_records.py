"""What the training worker tells of a base's costs and of its job, as it is sent and stored."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from ..policies.snapshot import Frozen
from ..policies.training_costs import AddedLayer, TrainingCosts


class MeasuredTraining(Frozen):
    """What training a base costs here, and what it was measured on: on anything else it is measured again."""

    torch: str = Field(description="version of torch")
    processor: str = Field(description="model of the processor")
    costs: TrainingCosts

    @property
    def is_of_here(self) -> bool:
        """Whether it was measured with this torch on this processor."""
        return (self.torch, self.processor) == (torch_version(), processor())


class JobFacts(Frozen):
    """What the planner must know of a job and only its worker can find out."""

    train_images: int = Field(ge=1)
    validation_images: int = Field(ge=0)
    added: tuple[AddedLayer, ...] = Field((), description="layers that its patch kinds join to the base")
    unlean: bool = Field(False, description="it cannot run in the lean way")
    augmented: bool = Field(False, description="inputs differ from epoch to epoch, so that no features can be kept")
    importance: tuple[tuple[str, float], ...] = Field(
        (), description="by tensor of the base: Fisher information at the start, for the order sparse"
    )


@cache
def torch_version() -> str:
    """The installed torch, without importing it; empty where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


@cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the kernel names it, else the architecture."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.machine())
