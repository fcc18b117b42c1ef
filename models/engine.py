"""Engines run a patched base on a batch. torch is the reference: any device, every patch kind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..policies.errors import BadInputError
from .bases import Base
from .patched import PatchedNetwork
from .patches.patch import Patch


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One batch's outcome: logits [N, classes], where the time went in milliseconds, and the engine that ran it."""

    logits: Tensor
    bind_ms: float
    network_ms: float
    engine: str


class Engine(Protocol):
    """One base, ready to run with any patch that fits it."""

    @property
    def name(self) -> str:
        """The engine's name as shown to users."""
        ...

    @property
    def threads(self) -> int:
        """Threads that one batch is spread over."""
        ...

    def use_threads(self, threads: int) -> None:
        """Spread the next batches over `threads` threads, where threads that share a processor hold each other up."""
        ...

    @property
    def refused(self) -> Mapping[int, str]:
        """Resolutions that the engine leaves to the reference, with the reason in words."""
        ...

    def run(self, inputs: Tensor, patch: Patch | None = None) -> EngineRun:
        """Logits and timing of float32 `inputs` [N, 3, R, R] under `patch` (None: the base as it is)."""
        ...

    def predict(self, inputs: Tensor, patch: Patch | None = None) -> Tensor:
        """Probabilities [N, classes] of the same."""
        ...


class TorchEngine:
    """Eager torch in channels_last. The thread count is the process's: all engines of a process share it."""

    name = "torch"
    refused: Mapping[int, str] = MappingProxyType({})  # it is the reference

    def __init__(self, base: Base, threads: int | None = None) -> None:
        self.patched = PatchedNetwork(base)
        if threads is not None:
            self.use_threads(threads)

    @property
    def threads(self) -> int:
        """See `Engine.threads`."""
        return torch.get_num_threads()

    def use_threads(self, threads: int) -> None:
        """See `Engine.use_threads`. Raises ValueError below 1."""
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    def run(self, inputs: Tensor, patch: Patch | None = None) -> EngineRun:
        """See `Engine.run`; the patch stays bound until another is asked for.

        Raises BadInputError when `inputs` has another shape.
        """
        if inputs.dim() != 4 or inputs.shape[1] != 3:
            raise BadInputError(f"A batch of images has shape [N, 3, R, R], not {list(inputs.shape)}.")
        start = time.perf_counter()
        if patch is None:
            self.patched.remove()
        else:
            self.patched.apply(patch)
        bound = time.perf_counter()
        with torch.inference_mode():
            logits: Tensor = self.patched.network(inputs.contiguous(memory_format=self.patched.base.memory_format))
        done = time.perf_counter()
        return EngineRun(logits, (bound - start) * 1e3, (done - bound) * 1e3, self.name)

    def predict(self, inputs: Tensor, patch: Patch | None = None) -> Tensor:
        """See `Engine.predict`."""
        return self.run(inputs, patch).logits.softmax(1)
