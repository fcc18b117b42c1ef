"""The fast engine on CPUs: OpenVINO, checked against the torch reference."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..policies.errors import UnavailableError
from ..policies.task import PatchKind
from .bases import Base
from .engine import EngineRun, TorchEngine
from .openvino_graph import Row, affine_row, filters, graph
from .patches.patch import Patch

TOLERANCE = 1e-3  # of the largest logit of the reference, or of 1 where that is smaller
GRAPHS_KEPT = 12  # compiled graphs, one a resolution and batch size
AFFINE = frozenset(
    (PatchKind.SCALE_BIAS, PatchKind.HEAD, PatchKind.RANDOM_HEAD)
)  # kinds that need no graph of their own


@dataclass(frozen=True, slots=True)
class _Patched:
    """A patch as the graph takes it: the normalisations' row [1, 2, C_total], and the classifier."""

    row: Row
    weight: Tensor
    bias: Tensor


class OpenVinoEngine:
    """Runs a base and its affine patches on OpenVINO in float32; everything else on the torch reference.

    A graph is compared with the reference on the first input that it gets. One that disagrees is not used: its
    resolution stays with the reference, and `refused` says why.
    """

    name = "openvino"

    def __init__(self, base: Base, threads: int) -> None:
        """Raises UnavailableError when OpenVINO cannot be loaded."""
        try:
            import openvino
        except (ImportError, OSError) as error:
            raise UnavailableError(
                f"The engine openvino cannot be loaded: {error}.", hint="Install the package openvino."
            ) from error
        self._base, self._threads = base, threads
        self._reference, self._reference_threads = TorchEngine(base, 1), threads
        self._core = openvino.Core()
        self._filters = filters(base.network)
        self._graphs: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._rows: WeakKeyDictionary[Patch, _Patched] = WeakKeyDictionary()
        self._bare = self._prepare({})
        self.refused: dict[int, str] = {}

    @property
    def threads(self) -> int:
        """Threads of the compiled graphs. They do not hold each other up, so the number stays."""
        return self._threads

    def use_threads(self, threads: int) -> None:
        """Give the reference `threads` threads for when it steps in."""
        self._reference_threads = threads

    def run(self, inputs: Tensor, patch: Patch | None = None) -> EngineRun:
        """See `Engine.run`."""
        if inputs.dim() != 4 or inputs.shape[1] != 3 or inputs.shape[2] != inputs.shape[3]:
            return self._by_reference(inputs, patch)  # which says what is wrong, or can run what is no square
        side = inputs.shape[-1]
        if side in self.refused or not (patch is None or AFFINE.issuperset(patch.metadata.kinds)):
            return self._by_reference(inputs, patch)
        start = time.perf_counter()
        patched = self._patched(patch)
        bound = time.perf_counter()
        request = self._graphs.get((side, len(inputs)))
        if request is None:
            return self._first(inputs, patch, patched)
        self._graphs.move_to_end((side, len(inputs)))
        logits = _logits(request, inputs, patched)
        return EngineRun(logits, (bound - start) * 1e3, (time.perf_counter() - bound) * 1e3, self.name)

    def predict(self, inputs: Tensor, patch: Patch | None = None) -> Tensor:
        """See `Engine.predict`."""
        return self.run(inputs, patch).logits.softmax(1)

    def _by_reference(self, inputs: Tensor, patch: Patch | None) -> EngineRun:
        """The reference's run; the base has its own tensors back afterwards, for rows and graphs are made of them."""
        self._reference.use_threads(self._reference_threads)
        try:
            return self._reference.run(inputs, patch)
        finally:
            self._reference.patched.remove()
            self._reference.use_threads(1)  # torch's threads keep turning for a while after a run, in the graph's way

    def _first(self, inputs: Tensor, patch: Patch | None, patched: _Patched) -> EngineRun:
        """Compile the graph for these inputs' shape and compare it with the reference on them."""
        side, batch = inputs.shape[-1], len(inputs)
        reference = self._by_reference(inputs, patch)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = self._core.compile_model(
            graph(self._base.network, self._filters, side, batch), "CPU", options
        ).create_infer_request()
        logits = _logits(request, inputs, patched)
        worst = float((logits - reference.logits).abs().max())
        allowed = TOLERANCE * max(1.0, float(reference.logits.abs().max()))
        if not worst <= allowed:  # not a number is a disagreement too
            self.refused[side] = (
                f"OpenVINO's logits of {self._base.name} at {side} px differ from the reference's by {worst:.2g}; "
                f"at most {allowed:.2g} is accepted, so torch runs this resolution."
            )
            return reference
        self._graphs[side, batch] = request
        while len(self._graphs) > GRAPHS_KEPT:
            self._graphs.popitem(last=False)
        return reference

    def _patched(self, patch: Patch | None) -> _Patched:
        if patch is None:
            return self._bare
        found = self._rows.get(patch)
        if found is None:
            found = self._rows[patch] = self._prepare(dict(patch.tensors))
        return found

    def _prepare(self, tensors: dict[str, Tensor]) -> _Patched:
        classifier = self._base.network.classifier
        return _Patched(
            row=affine_row(self._base.network, tensors),
            weight=tensors.get("classifier.weight", classifier.weight.detach()),
            bias=tensors.get("classifier.bias", classifier.bias.detach()),
        )


def _logits(request: Any, inputs: Tensor, patched: _Patched) -> Tensor:
    outputs = request.infer([inputs.contiguous().numpy(), patched.row], share_inputs=True)
    return nn.functional.linear(torch.from_numpy(outputs[0]), patched.weight, patched.bias)
