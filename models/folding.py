"""A patched network as a plain one: whatever is affine goes into the linear layer before or behind it.

A batch normalisation in eval mode, y = s x + t, goes into the convolution that it follows (Jacob et al. 2018, section
3.2) or into the linear map behind it; of group and layer normalisation the scale and bias do. An added layer of the
channels, y = M x + c, goes into the dense convolution that it follows. What cannot be folded stays, and says why.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..policies.task import PatchKind
from .bases import Base
from .networks.efficientnet_lite import SameConv2d
from .patched import PatchedNetwork
from .patches.kinds import make_kinds
from .patches.patch import Patch
from .tracing import BATCH_NORMS, NORMS, trace

_CONVS = (nn.Conv2d, SameConv2d)
_NOT_AFFINE = {
    PatchKind.GATE: "a gate depends on its input",
    PatchKind.SQUEEZE_EXCITE: "squeeze-and-excite depends on its input",
    PatchKind.LITE_RESIDUAL: "a ReLU stands between the two convolutions of a lite residual branch",
    PatchKind.ADDED_NEURONS: "a ReLU stands between the two layers of added neurons",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing folded: the path of a layer that is no more, and of the one that does its work too."""

    path: str
    into: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One thing that stays: its path, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Folded:
    """A network that stands alone: images [N, 3, R, R] to logits [N, classes], and what became of its affine parts."""

    network: fx.GraphModule
    steps: tuple[Step, ...]
    kept: tuple[Kept, ...]


class _CannotFold(Exception):  # noqa: N818 - an answer, not an error: it ends as a `Kept`
    pass


def fold(base: Base, patch: Patch | None) -> Folded:
    """`base` under `patch` with its affine parts folded, as a copy: the base is not touched.

    It agrees with the patched base to 1e-4 of the largest logit. Raises UnavailableError for a network that cannot be
    traced and PatchMismatchError when the patch does not fit.
    """
    with PatchedNetwork(base).patched(patch) as network:
        graph = trace(network)
        module = fx.GraphModule(copy.deepcopy(network), graph, type(network).__name__)
    module.requires_grad_(False).eval()
    folder = _Folder(module)
    folder.fold_norms()
    folder.fold_added_layers()
    kept = [*folder.kept, *_by_nature(base, patch)]
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return Folded(module, tuple(folder.steps), tuple(kept))


def _by_nature(base: Base, patch: Patch | None) -> Iterator[Kept]:
    """The layers of kinds that no linear layer can take in."""
    if patch is None:
        return
    for kind in make_kinds(patch.metadata.kinds, patch.metadata.options):
        if kind.kind in _NOT_AFFINE:
            for site in kind.sites(base.network):
                yield Kept(f"{site}:{kind.kind}", _NOT_AFFINE[kind.kind])


class _Folder:
    """Folds layers of one graph, one at a time, and keeps the account."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self.steps: list[Step] = []
        self.kept: list[Kept] = []

    def fold_norms(self) -> None:
        """Every normalisation with scale and bias."""
        for node in list(self._module.graph.nodes):
            norm = self._layer(node)
            if type(norm) in NORMS and getattr(norm, "weight", None) is not None:
                self._try(node, self._fold_norm)

    def fold_added_layers(self) -> None:
        """Every linear map of the channels that follows a convolution."""
        for node in list(self._module.graph.nodes):
            if (parts := self._low_rank(node)) is not None:
                self._try(node, partial(self._fold_low_rank, parts=parts), name=parts[1])
            elif str(node.target).endswith(".layer") and isinstance(self._layer(node), nn.Conv2d | nn.Linear):
                self._try(node, self._fold_whole)

    def _try(self, node: fx.Node, fold: Callable[[fx.Node], str], name: fx.Node | None = None) -> None:
        path = str((name or node).target).removesuffix(".up")
        try:
            self.steps.append(Step(path, fold(node)))
        except _CannotFold as reason:
            self.kept.append(Kept(path, str(reason)))

    # normalisations

    def _fold_norm(self, node: fx.Node) -> str:
        norm = self._layer(node)
        assert isinstance(norm, NORMS)
        scale, shift = _affine(norm)
        if isinstance(norm, BATCH_NORMS):
            before = node.args[0]
            assert isinstance(before, fx.Node)
            try:
                self._check_alone(before, "what it normalises")
                into = self._fold_behind(before, scale, shift)
            except _CannotFold as reason:
                into = self._fold_ahead(node, scale, shift, str(reason))
            self._bypass(node, before)
            return into
        into = self._fold_ahead(node, scale, shift, "it computes its statistics from its input")
        bare = copy.copy(norm)
        bare._parameters = {"weight": None, "bias": None}
        bare.elementwise_affine = bare.affine = False
        self._put(node, bare)
        return into

    def _fold_behind(self, node: fx.Node, scale: Tensor, shift: Tensor) -> str:
        """Into the linear layer whose output it is."""
        layer = self._linear(node, "it follows")
        rows = (-1, *([1] * (layer.weight.dim() - 1)))
        self._set(layer, layer.weight.double() * scale.view(rows), _bias(layer) * scale + shift)
        return str(node.target)

    def _fold_ahead(self, node: fx.Node, scale: Tensor, shift: Tensor, why_not_behind: str) -> str:
        """Into the linear layers that alone use it, directly or by way of a mean over places."""
        image = not isinstance(self._layer(node), nn.LayerNorm)
        readers = list(_readers(node, image))
        if not readers:
            raise _CannotFold(f"{why_not_behind}, and nothing reads it")
        try:
            layers = [self._linear(reader, "it is read by") for reader in readers]
            for layer in layers:
                _check_padding(layer, shift)
        except _CannotFold as reason:
            raise _CannotFold(f"{why_not_behind}, and {reason}") from None
        for layer in layers:
            weight, groups = layer.weight.double(), getattr(layer, "groups", 1)
            apart = weight.view(groups, len(weight) // groups, weight.shape[1], -1)
            by_input = (groups, 1, weight.shape[1], 1)
            added = (apart * shift.view(by_input)).sum((2, 3)).flatten()
            self._set(layer, (apart * scale.view(by_input)).view_as(weight), _bias(layer) + added)
        return ", ".join(str(reader.target) for reader in readers)

    # added layers

    def _low_rank(self, node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
        """The input, upper and lower factor of `x + up(down(x))` where `node` is that sum; None for any other node."""
        if node.op != "call_function" or node.target is not operator.add or len(node.args) != 2:
            return None
        x, up = node.args
        if not isinstance(x, fx.Node) or not isinstance(up, fx.Node) or not str(up.target).endswith("layer.up"):
            return None
        down = up.args[0]
        assert isinstance(down, fx.Node)
        return x, up, down

    def _fold_low_rank(self, node: fx.Node, parts: tuple[fx.Node, fx.Node, fx.Node]) -> str:
        x, up, down = parts
        outer, inner = self._linear(up, "it ends in"), self._linear(down, "it begins with")
        matrix = outer.weight.double().flatten(1) @ inner.weight.double().flatten(1)
        into = self._fold_map(x, matrix + torch.eye(len(matrix)), _bias(outer), readers=2)
        self._bypass(node, x)
        for unused in (up, down):
            self._module.graph.erase_node(unused)
        return into

    def _fold_whole(self, node: fx.Node) -> str:
        layer, before = self._linear(node, "it is"), node.args[0]
        assert isinstance(before, fx.Node)
        into = self._fold_map(before, layer.weight.double().flatten(1), _bias(layer), readers=1)
        self._bypass(node, before)
        return into

    def _fold_map(self, node: fx.Node, matrix: Tensor, bias: Tensor, readers: int) -> str:
        """A linear map of the channels, y = M x + c, into the dense layer whose output x is."""
        self._check_alone(node, "what it maps", readers)
        layer = self._linear(node, "it follows")
        if getattr(layer, "groups", 1) != 1:
            raise _CannotFold(f"it follows the depthwise filters of '{node.target}', which it would make dense")
        weight = (matrix @ layer.weight.double().flatten(1)).view_as(layer.weight)
        self._set(layer, weight, matrix @ _bias(layer) + bias)
        return str(node.target)

    # the graph

    def _layer(self, node: fx.Node) -> nn.Module | None:
        return self._module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _linear(self, node: fx.Node, how: str) -> Any:
        """The convolution or linear layer that a node calls, nothing else calling it."""
        layer = self._layer(node)
        if type(layer) not in (*_CONVS, nn.Linear):
            raise _CannotFold(f"{how} {_described(node, layer)}")
        if sum(other.target == node.target for other in self._module.graph.nodes if other.op == "call_module") > 1:
            raise _CannotFold(f"{how} '{node.target}', which stands in several places")
        return layer

    def _check_alone(self, node: fx.Node, what: str, readers: int = 1) -> None:
        if len(node.users) != readers:
            raise _CannotFold(f"{what} is used elsewhere too")

    def _bypass(self, node: fx.Node, before: fx.Node) -> None:
        """Let whoever reads `node` read `before`, and forget it."""
        node.replace_all_uses_with(before)
        self._module.graph.erase_node(node)

    def _set(self, layer: Any, weight: Tensor, bias: Tensor) -> None:
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype).contiguous(), requires_grad=False)
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)

    def _put(self, node: fx.Node, layer: nn.Module) -> None:
        parent, _, leaf = str(node.target).rpartition(".")
        setattr(self._module.get_submodule(parent), leaf, layer)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] of a normalisation, float64."""
    own = {name: tensor.detach().double() for name, tensor in norm.state_dict().items()}
    scale, shift = own["weight"], own.get("bias", torch.zeros_like(own["weight"]))
    if isinstance(norm, BATCH_NORMS):
        scale = scale / torch.sqrt(own["running_var"] + norm.eps)
        shift = shift - own["running_mean"] * scale
    return scale, shift


def _bias(layer: Any) -> Tensor:
    if layer.bias is None:
        return torch.zeros(len(layer.weight), dtype=torch.float64)
    bias: Tensor = layer.bias.detach().double()
    return bias


def _readers(node: fx.Node, image: bool) -> Iterator[fx.Node]:
    """Who uses a node, seen through means over all places: an affine map of channels can change places with those."""
    for user in node.users:
        if user.target is getattr and user.args[1] == "shape":
            continue  # which no folding changes
        axes = user.args[1:2] if user.target in ("mean", torch.mean) else ()
        if axes and (tuple(axes[0]) if isinstance(axes[0], list | tuple) else (axes[0],)) == (
            (2, 3) if image else (1,)
        ):
            yield from _readers(user, image)
        else:
            yield user


def _check_padding(layer: Any, shift: Tensor) -> None:
    if isinstance(layer, nn.Linear) or not bool(shift.any()):
        return
    padded = type(layer) is SameConv2d and max(layer.kernel_size) > 1
    if padded or isinstance(layer.padding, str) or any(layer.padding):
        raise _CannotFold("its shift would miss the zeros that the convolution behind it pads with")


def _described(node: fx.Node, layer: nn.Module | None) -> str:
    if layer is not None:
        return f"'{node.target}' ({type(layer).__name__})"
    if node.op in ("placeholder", "output"):
        return f"the network's {'input' if node.op == 'placeholder' else 'answer'}"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"'{name}', which is no linear layer"
