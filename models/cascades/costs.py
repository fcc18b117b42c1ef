"""What a cascade costs, from measured milliseconds, with what its stages share counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...policies.cascade import RungId
from ...policies.errors import BadInputError


@dataclass(frozen=True)
class CascadeCosts:
    """Milliseconds for one input, as measured on the device."""

    decode_ms: float  # once an input
    prepare_ms: Mapping[int, float]  # by resolution: resize and normalise, once for all stages of that resolution
    network_ms: Mapping[tuple[str, int], float]  # by base and resolution
    dispatch_ms: float = 0.0  # once a stage: queueing, heads, deciding
    own_network_ms: Mapping[RungId, float] = field(default_factory=dict)  # of rungs whose patch has a graph of its own

    def marginal(self, before: Sequence[RungId], rung: RungId) -> float:
        """What an input pays that comes to `rung` after the stages `before`. Raises BadInputError for unmeasured."""
        try:
            network = self.own_network_ms.get(rung)
            if network is None:
                network = self.network_ms[rung.base, rung.resolution]
            shared = any(stage.resolution == rung.resolution for stage in before)
            prepare = 0.0 if shared else self.prepare_ms[rung.resolution]
        except KeyError:
            raise BadInputError(
                f"The cost of {rung} has not been measured.", hint="Measure the profile before planning a cascade."
            ) from None
        return (0.0 if before else self.decode_ms) + prepare + network + self.dispatch_ms

    def stage_costs(self, rungs: Sequence[RungId]) -> tuple[float, ...]:
        """What each of a cascade's stages adds, in order. Raises BadInputError for unmeasured rungs."""
        return tuple(self.marginal(rungs[:i], rung) for i, rung in enumerate(rungs))
