"""A patch and its file: safetensors, named by its sha256, with the metadata as JSON in the header.

Reading trusts nothing: a file that was cut short, altered, or made for another base is refused in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ...policies.errors import NotFoundError, PatchMismatchError
from ...policies.task import PatchMetadata
from ..bases import Base
from ..durable import write_durably
from .kinds import make_kinds, owners
from .shapes import tensor_of

FORMAT = 1
METADATA_KEY = "patchd"
MAX_HEADER_BYTES = 16 * 1024 * 1024

_HEADER_LENGTH = struct.Struct("<Q")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BROKEN_HINT = "Export or copy the patch again."


@dataclass(frozen=True, eq=False)
class Patch:
    """What turns a base into a task's model. Two patches are the same only if they are the same object."""

    metadata: PatchMetadata
    tensors: Mapping[str, Tensor]


def save_patch(patch: Patch, directory: Path) -> tuple[str, Path]:
    """Write `patch` to `directory`/<sha256>.safetensors so that a crash leaves the whole file or none.

    Returns the sha256 of the file, which is the patch's id, and its path. Equal patches give equal bytes.
    Raises StateError when it cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in patch.tensors.items()}
    data = save_tensors(tensors, {METADATA_KEY: patch.metadata.model_dump_json()})
    patch_id = hashlib.sha256(data).hexdigest()
    path = directory / f"{patch_id}.safetensors"
    write_durably(path, data)
    return patch_id, path


def read_metadata(path: Path) -> PatchMetadata:
    """The metadata of a patch file, reading its header only.

    Raises NotFoundError when there is no such file and PatchMismatchError when it is no whole patch file.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_HEADER_LENGTH.size + min(size, MAX_HEADER_BYTES))
    except FileNotFoundError:
        raise NotFoundError(f"There is no patch file {path}.") from None
    return _parse_metadata(start, size, path)


def load_patch(path: Path, base: Base | None = None) -> Patch:
    """Read a patch file and check it, against `base` too when one is given.

    Raises NotFoundError when there is no such file, PatchMismatchError when it is damaged or does not fit.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"There is no patch file {path}.") from None
    if _SHA256.fullmatch(path.stem) and hashlib.sha256(data).hexdigest() != path.stem:
        raise PatchMismatchError(
            f"The patch file {path.name} is damaged: its bytes no longer match its name.", hint=_BROKEN_HINT
        )
    metadata = _parse_metadata(data, len(data), path)
    try:
        tensors = load_tensors(data)
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    patch = Patch(metadata, {name: _channels_last(tensor) for name, tensor in tensors.items()})
    for name, tensor in patch.tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PatchMismatchError(f"Tensor '{name}' of patch {path.name} holds values that are not finite.")
    if base is not None:
        check_fits(patch, base)
    return patch


def check_fits(patch: Patch, base: Base) -> None:
    """Raise PatchMismatchError, naming the first thing that does not fit, unless `patch` belongs to `base`."""
    metadata = patch.metadata
    if metadata.base != base.name:
        raise PatchMismatchError(f"The patch was made for base '{metadata.base}', not for '{base.name}'.")
    if metadata.base_hash != base.hash:
        raise PatchMismatchError(
            f"The patch was made for another '{base.name}': its base has fingerprint {metadata.base_hash[:12]}, "
            f"this one {base.hash[:12]}.",
            hint="Train the patch again on this base.",
        )
    network, classes = base.structure, len(metadata.labels)
    owned = owners(make_kinds(metadata.kinds, metadata.options), network)
    kinds = ", ".join(metadata.kinds)
    for name, kind in owned.items():
        if name not in patch.tensors and not kind.partial:
            raise PatchMismatchError(f"The patch lacks tensor '{name}', which its kind '{kind.kind}' needs.")
    for name, tensor in patch.tensors.items():
        owner = owned.get(name)
        if owner is None:
            raise PatchMismatchError(f"The patch holds tensor '{name}', which does not belong to its kinds ({kinds}).")
        expected = owner.shape(network, name, classes)
        dtype = torch.float32 if ":" in name else tensor_of(network, name).dtype
        if tuple(tensor.shape) != expected:
            raise PatchMismatchError(
                f"Tensor '{name}' of the patch has shape {list(tensor.shape)}; the base needs {list(expected)}."
            )
        if tensor.dtype != dtype:
            raise PatchMismatchError(f"Tensor '{name}' of the patch is {tensor.dtype}; the base needs {dtype}.")
        if name.endswith(".running_var") and bool((tensor < 0).any()):
            raise PatchMismatchError(f"Tensor '{name}' of the patch holds variances below 0.")
    outputs = network.get_submodule(base.head).out_features
    if f"{base.head}.weight" not in owned and classes != outputs:
        raise PatchMismatchError(
            f"The patch names {classes} classes but brings no head; base '{base.name}' has {outputs}."
        )


def _parse_metadata(start: bytes, size: int, path: Path) -> PatchMetadata:
    """The metadata in a safetensors header. `start` holds the file's beginning, `size` is the whole file's."""
    prefix = _HEADER_LENGTH.size
    if size < prefix:
        raise _damaged(path, f"it has only {size} bytes")
    (length,) = _HEADER_LENGTH.unpack_from(start)
    if length > MAX_HEADER_BYTES or prefix + length > size:
        raise _damaged(path, "it is no safetensors file or was cut short")
    try:
        header = json.loads(start[prefix : prefix + length])
        text = header["__metadata__"][METADATA_KEY]
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise _damaged(path, "its header holds no patch metadata") from None
    if prefix + length + max(ends, default=0) != size:
        raise _damaged(path, "its length does not match its header")
    try:
        metadata = PatchMetadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise _damaged(path, f"its metadata is wrong at '{where}': {first['msg']}") from None
    if metadata.format != FORMAT:
        raise PatchMismatchError(
            f"The patch file {path.name} has format {metadata.format}; this patchd reads format {FORMAT}."
        )
    return metadata


def _damaged(path: Path, why: str) -> PatchMismatchError:
    return PatchMismatchError(f"The file {path.name} is no whole patch file: {why}.", hint=_BROKEN_HINT)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
