"""The file of a base version: the tensors in which it differs from its packaged base, and what it is.

`bases.load_base` puts them in place of the packaged ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ..policies.base_name import parse_base, version_name
from ..policies.base_version import VersionMetadata
from ..policies.errors import NotFoundError, UnavailableError
from .durable import write_durably

FORMAT = 1
METADATA_KEY = "patchd-base"


@dataclass(frozen=True, eq=False)
class BaseVersion:
    """What turns a packaged base into a version of it: whole tensors by name."""

    metadata: VersionMetadata
    tensors: Mapping[str, Tensor]


def save_version(version: BaseVersion, directory: Path) -> tuple[str, Path]:
    """Write `version` to `directory`/<sha256>.safetensors so that a crash leaves the whole file or none.

    Returns the version's name and the path. Raises StateError when it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in version.tensors.items()}
    data = save(tensors, {METADATA_KEY: version.metadata.model_dump_json()})
    digest = hashlib.sha256(data).hexdigest()
    path = directory / f"{digest}.safetensors"
    write_durably(path, data)
    return version_name(version.metadata.base, digest), path


def find_version(name: str, directory: Path | None) -> BaseVersion:
    """Read the version called `name` from `directory` and check that it is whole.

    Raises NotFoundError when it is not there, UnavailableError when it is damaged or of another format.
    """
    base, digits = parse_base(name)
    files = [] if directory is None else sorted(directory.glob(f"{digits}*.safetensors"))
    if not files:
        raise NotFoundError(f"There is no base version '{name}'.", hint="`patchctl base list` shows them.")
    data = files[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != files[0].stem or len(files) > 1:
        raise _damaged(name, "its bytes do not match its name")
    try:
        with safe_open(files[0], "pt") as file:
            metadata = VersionMetadata.model_validate_json((file.metadata() or {})[METADATA_KEY])
        tensors = load(data)
    except (SafetensorError, ValidationError, KeyError, OSError) as error:
        raise _damaged(name, f"{type(error).__name__}") from error
    if metadata.format != FORMAT or metadata.base != base:
        raise _damaged(name, f"it is of base {metadata.base} in format {metadata.format}")
    return BaseVersion(metadata, tensors)


def _damaged(name: str, why: str) -> UnavailableError:
    return UnavailableError(
        f"The file of base version '{name}' cannot be used: {why}.",
        hint="Move its tasks to another base: patchctl task move.",
    )
