"""Engines run a base on a batch, each image under its own patch. torch is the reference: any device, every kind."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class MixedRun:
    """A batch's outcome where each image has its own patch: an image's logits [classes] and the engine that ran it."""

    logits: tuple[Tensor, ...]
    engines: tuple[str, ...]
    bind_ms: float
    network_ms: float


class Engine(ABC):
    """One base, ready to run with any patch that fits it. For use from one thread."""

    name: str  # as shown to users

    @property
    @abstractmethod
    def threads(self) -> int:
        """Threads that one batch is spread over."""

    @abstractmethod
    def use_threads(self, threads: int) -> None:
        """Spread the next batches over `threads` threads, where threads that share a processor hold each other up."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the engine leaves to the reference or does otherwise than asked, in words, oldest first."""
        return ()

    def prepare(self, patch: Patch) -> None:  # noqa: B027 - most engines have nothing to do
        """Do beforehand, in any thread, what the first run under `patch` would spend time on."""

    def warm(self, side: int) -> None:  # noqa: B027 - most engines have nothing to do
        """Do beforehand, in any thread, what the first runs of images of `side` pixels would spend time on."""

    @abstractmethod
    def run_mixed(self, inputs: Tensor, patches: Sequence[Patch | None]) -> MixedRun:
        """Logits and timing of float32 `inputs` [N, 3, R, R], each image under its patch (None: the base as it is).

        Raises BadInputError when `inputs` has another shape, ValueError when there is not one patch for each image.
        """

    def run(self, inputs: Tensor, patch: Patch | None = None) -> EngineRun:
        """The same with one patch for all images."""
        run = self.run_mixed(inputs, [patch] * len(inputs))
        return EngineRun(torch.stack(run.logits), run.bind_ms, run.network_ms, run.engines[0])

    def predict(self, inputs: Tensor, patch: Patch | None = None) -> Tensor:
        """Probabilities [N, classes] of `run`."""
        return self.run(inputs, patch).logits.softmax(1)


def check_batch(inputs: Tensor, patches: Sequence[Patch | None]) -> None:
    """Raise BadInputError unless `inputs` is [N, 3, H, W], ValueError unless there are N patches, N at least 1."""
    if inputs.dim() != 4 or inputs.shape[1] != 3 or not len(inputs):
        raise BadInputError(f"A batch of images has shape [N, 3, R, R], not {list(inputs.shape)}.")
    if len(inputs) != len(patches):
        raise ValueError(f"need one patch for each image, got {len(patches)} for {len(inputs)}")


class TorchEngine(Engine):
    """Eager torch in channels_last. The thread count is the process's: all engines of a process share it."""

    name = "torch"

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

    def run_mixed(self, inputs: Tensor, patches: Sequence[Patch | None]) -> MixedRun:
        """See `Engine.run_mixed`: images of one patch run together; the last one stays bound until another is asked."""
        check_batch(inputs, patches)
        logits: list[Tensor] = [inputs] * len(inputs)
        bind_s = network_s = 0.0
        for patch in dict.fromkeys(patches):
            places = [place for place, own in enumerate(patches) if own is patch]
            start = time.perf_counter()
            if patch is None:
                self.patched.remove()
            else:
                self.patched.apply(patch)
            bound = time.perf_counter()
            own = inputs if len(places) == len(inputs) else inputs[places]
            with torch.inference_mode():
                answers = self.patched.network(own.contiguous(memory_format=self.patched.base.memory_format))
            bind_s, network_s = bind_s + bound - start, network_s + time.perf_counter() - bound
            for place, answer in zip(places, answers, strict=True):
                logits[place] = answer
        return MixedRun(tuple(logits), (self.name,) * len(inputs), bind_s * 1e3, network_s * 1e3)
