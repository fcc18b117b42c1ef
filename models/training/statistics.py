"""Estimating the running statistics of batch norms on other images, before anything else of a rung is trained.

Each batch passes through the network as in training, every norm dividing by the batch's own statistics; these are
gathered, layer by layer. Nothing of the base is written, not even the norms' counters of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..patches.shapes import join
from ..patches.statistics import MEAN, VARIANCE, Statistics
from .kept import Kept

BATCH = 32  # as in training; larger ones give less biased variances and take more memory

Inputs = Callable[[int, int], Tensor]


class StatisticsEstimate:
    """The estimate for one rung, made in pieces.

    Without `momentum` of the kind: the mean over all images of the batches' means and unbiased variances (as SWA does
    it: Izmailov et al. 2018, section 3.2). With it: a running mix that begins with the base's own, as torch's batch
    norms keep it in training, running = (1 - momentum) running + momentum batch.
    """

    def __init__(self, network: nn.Module, kind: Statistics, directory: Path, key: str) -> None:
        """Go on from what `directory` holds under `key`, which names the images and the network they pass through."""
        self._network, self._kind = network, kind
        self._norms = kind.norms(network)
        self._kept = Kept(directory, "statistics", key)
        found = self._kept.load()
        self._done, self._gathered = (0, self._start()) if found is None else found
        self._saved = self._done

    def _start(self) -> dict[str, Tensor]:
        values = {}
        for path, norm in self._norms:
            for leaf in (MEAN, VARIANCE):
                own = norm.get_buffer(leaf).detach().double()
                values[join(path, leaf)] = torch.zeros_like(own) if self._kind.momentum is None else own.clone()
        return values

    def run(self, count: int, inputs: Inputs, should_end: Callable[[], bool]) -> bool:
        """Let images 0 to `count` pass, given as `inputs(start, end)`; False when told to end before the last one.

        The network stands as it is to be estimated: in eval mode, with whatever is bound to it. Each call does one
        batch at least, and the next one goes on from there.
        """
        ends = [*range(BATCH, count, BATCH), count]
        if len(ends) > 1 and count - ends[-2] < BATCH // 2:
            del ends[-2]  # the images of a last, small batch join those before it: their variance alone says little
        with torch.no_grad(), self._gathering():
            for end in ends:
                if end <= self._done:
                    continue
                self._network(inputs(self._done, end))
                self._done = end
                if end < count and should_end():
                    return False
        return True

    @contextmanager
    def _gathering(self) -> Iterator[None]:
        """While it lasts, each norm uses and gathers its batch's statistics. Afterwards its buffers are as before."""
        before = [(norm, norm._buffers[MEAN], norm._buffers[VARIANCE]) for _, norm in self._norms]
        hooks = [norm.register_forward_pre_hook(self._gatherer(path)) for path, norm in self._norms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for norm, mean, variance in before:
                norm._buffers[MEAN], norm._buffers[VARIANCE] = mean, variance

    def _gatherer(self, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def gather(norm: nn.Module, given: tuple[Any, ...]) -> None:
            assert isinstance(norm, _BatchNorm)
            x: Tensor = given[0]
            places = [axis for axis in range(x.dim()) if axis != 1]
            variance, mean = torch.var_mean(x, places, correction=0)
            norm._buffers[MEAN], norm._buffers[VARIANCE] = mean, variance
            seen = x.numel() // x.shape[1]
            unbiased = variance.double() * (seen / max(1, seen - 1))
            self._add(join(path, MEAN), mean.double(), len(x))
            self._add(join(path, VARIANCE), unbiased, len(x))

        return gather

    def _add(self, name: str, batch: Tensor, images: int) -> None:
        momentum = self._kind.momentum
        if momentum is None:
            self._gathered[name] += batch * images
        else:
            self._gathered[name] = (1 - momentum) * self._gathered[name] + momentum * batch

    def tensors(self) -> dict[str, Tensor]:
        """The estimate by the names of the network's buffers, [C] each. At least one image must have passed."""
        share = 1.0 if self._kind.momentum is not None else self._done
        return {
            join(path, leaf): (self._gathered[join(path, leaf)] / share).to(norm.get_buffer(leaf).dtype)
            for path, norm in self._norms
            for leaf in (MEAN, VARIANCE)
        }

    def save(self) -> None:
        """Keep on the disk how far it has come. Raises StateError."""
        if self._done > self._saved:
            self._kept.save(self._done, self._gathered)
            self._saved = self._done
