"""Checkpoints of a training job: one safetensors file, replaced atomically, with the one before it kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...policies.base_version import VersionMetadata
from ...policies.snapshot import Frozen
from ...policies.task import PatchMetadata, Precision, RungResult
from ..durable import write_durably
from .course import Course

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


class Finished(Frozen):
    """A rung that is done: what it gave, and the metadata of its patch."""

    result: RungResult
    metadata: PatchMetadata


class MadeVersion(Frozen):
    """The base version that a job of several tasks has made, and the private patches that go with it."""

    name: str
    sha256: str = Field(description="of its file")
    bytes: int
    metadata: VersionMetadata
    members: tuple[Finished, ...]


class Position(Frozen):
    """Where a job stands, beside its tensors."""

    format: int = 2
    resolution: int | None = Field(None, description="the rung in hand; absent between two")
    course: Course = Course()
    seconds: float = Field(0.0, description="wall seconds spent on it")
    fraction: float = Field(0.0, description="largest share of the base that was unfrozen in it")
    reach: float = Field(1.0, description="least reach of its slices")
    finished: tuple[Finished, ...] = ()
    made: MadeVersion | None = Field(None, description="what a job of several tasks made, once it is done")
    precision: Precision | None = Field(None, description="of the rung in hand; absent: not decided yet")
    examples: str = Field("", description="which examples the rung in hand learns from")


@dataclass(frozen=True)
class Checkpoint:
    """A position with the tensors it needs, each called by what it is of and its parameter's name.

    `p.` parameters as they are, `o.FIELD.` their optimiser state, `g.` parameters at the end of the last good epoch,
    `b.` parameters at the end of the best epoch where that is another one.
    """

    position: Position
    tensors: Mapping[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors called `prefix` and a name, by that name."""
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write durably: killed at any moment, either the old or the new checkpoint is whole. Raises StateError."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save(tensors, {"position": checkpoint.position.model_dump_json()})
    write_durably(directory / CURRENT, data, keep=directory / PREVIOUS)


def load_checkpoint(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each one that was damaged; None when there is none."""
    notes: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = directory / name
        if not path.exists():
            continue
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                position = Position.model_validate_json(metadata["position"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValidationError, KeyError, OSError) as error:
            notes.append(f"The checkpoint {path} is damaged ({type(error).__name__}) and is passed over.")
            continue
        return Checkpoint(position, tensors), notes
    if notes:
        notes.append("No whole checkpoint is left; the job begins anew.")
    return None, notes
