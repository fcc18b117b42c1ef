"""Results that a job computes image by image and keeps in its directory: half of them, too, are worth keeping."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...policies.snapshot import Frozen
from ..durable import write_durably

METADATA_KEY = "patchd"


class Head(Frozen):
    """The header of such a file."""

    format: int = 1
    key: str = Field(description="of what the results are")
    done: int = Field(ge=0, description="images that are in them")


class Kept:
    """One file of tensors, named by what it is and by a digest of `key`, that says of how many images it is."""

    def __init__(self, directory: Path, what: str, key: str) -> None:
        self._key = key
        self.path = directory / f"{what}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """Images done and the tensors; None where there is no whole file of this key: it is then computed anew."""
        try:
            with safe_open(self.path, "pt") as file:
                head = Head.model_validate_json((file.metadata() or {})[METADATA_KEY])
                if head.key != self._key:
                    return None
                return head.done, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValidationError, KeyError, OSError):
            return None

    def save(self, done: int, tensors: Mapping[str, Tensor]) -> None:
        """Put them on the disk. Raises StateError when that cannot be done."""
        head = Head(key=self._key, done=done)
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_durably(self.path, save(plain, {METADATA_KEY: head.model_dump_json()}))
