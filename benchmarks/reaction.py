"""How soon patchd follows what the device is like, and how soon it is back.

Replayed: two changes under the preset policy `balanced`, mains to a low battery and free processors to full ones (that
rule waits `for_s` = 0.5 s), until the first prediction that obeys, in sampling periods. Predictions are asked for
without pause. The peer in the same run is the monitor alone: the time until GET /v1/snapshot shows the change. Aim: at
most two sampling periods.

Real: stress-ng takes all processors, then a part of the memory, while predictions are asked for and a job trains; the
seconds until allocation, resolution and training follow, and until they are back when the load is gone. Rises wait ten
seconds and take steps, so that coming back takes half a minute by design.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, print_table, quantile, running_daemon, spread
from patchd.client import Client
from patchd.daemon.api.schemas import TraceReplay
from patchd.policies.signals import signals
from patchd.policies.snapshot import Snapshot
from real_load import MOST_MEMORY, Loads

PERIOD_S = 1.0  # the daemon's default sampling period
BEFORE_S = 2.0  # of the trace, before the change: the daemon must have settled
GIVE_UP_S = 10.0
SETTLE_S = 20.0
POLICY = "balanced"
HEAD = {"format": "patchd-trace", "version": 1, "name": "step", "story": "One change.", "period_s": PERIOD_S}
CALM = {"cpu": {"count": 2, "busy": 0.05, "busy_own": 0.02}, "power": {"on_mains": True, "battery_charge": 0.9}}
CHANGES: dict[str, tuple[dict[str, Any], str, float]] = {
    "mains to low battery": ({**CALM, "power": {"on_mains": False, "battery_charge": 0.15}}, "power.on_mains", 0.0),
    "processors filled": ({**CALM, "cpu": {"count": 2, "busy": 0.97, "busy_own": 0.02}}, "cpu.busy", 0.97),
}


def trace(change: dict[str, Any], at_s: float) -> str:
    """A trace that changes once, `at_s` seconds after its start."""
    samples = [(0.0, CALM), (at_s, change), (at_s + GIVE_UP_S, change)]
    return "\n".join(json.dumps(line) for line in [HEAD, *({"t": at, **seen} for at, seen in samples)]) + "\n"


def react(client: Client, change: str, image: bytes, phase_s: float) -> tuple[float, float]:
    """Seconds from the change to the snapshot that shows it, and to the first answer that obeys it."""
    sample, signal, value = CHANGES[change]
    at_s = BEFORE_S + phase_s
    settle(client, image)
    client.start_trace(TraceReplay(name="step", jsonl=trace(sample, at_s)))
    changed = time.monotonic() + at_s
    seen: float | None = None
    while (now := time.monotonic()) < changed + GIVE_UP_S:
        if seen is None and shows(client.snapshot(), signal, value):
            seen = time.monotonic()
        answer = client.infer_tensor("imagenet", image, (64, 64, 3))
        if now > changed and answer.allocation < 1.0:
            done = time.monotonic()
            client.stop_trace()
            return (seen or done) - changed, done - changed
    raise RuntimeError(f"no prediction obeyed '{change}' within {GIVE_UP_S:.0f} s")


def shows(snapshot: Snapshot, signal: str, value: float) -> bool:
    """Whether a snapshot of the trace holds the changed signal."""
    return snapshot.source.startswith("trace:") and signals(snapshot).get(signal) == value


def settle(client: Client, image: bytes) -> None:
    """Replay a calm device until the allocation is full again.

    The policy is put in force anew, which forgets its calm times: they grow with each change, as flapping must not pay.
    """
    calm = [{**HEAD, "name": "calm"}, {"t": 0.0, **CALM}, {"t": 2 * SETTLE_S, **CALM}]
    client.start_trace(TraceReplay(name="calm", jsonl="\n".join(map(json.dumps, calm)) + "\n"))
    for policy in ("performance", POLICY):
        client.use_policy(name=policy)
        time.sleep(1.5 * PERIOD_S)
    deadline = time.monotonic() + SETTLE_S
    while client.infer_tensor("imagenet", image, (64, 64, 3)).allocation < 1.0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the allocation did not return to 1 within {SETTLE_S:.0f} s on a calm device")
        time.sleep(0.2)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=8, help="times that each change is replayed; 0: none [default: 8]")
    made.add_argument("--seed", type=int, default=0, help="of the phases between change and sampling [default: 0]")
    made.add_argument("--loads", type=int, default=2, help="times that each real load is put on; 0: none [default: 2]")
    made.add_argument(
        "--memory-share", type=float, default=0.25, help=f"of the memory, {MOST_MEMORY:g} at most [default: 0.25]"
    )
    arguments = made.parse_args()
    if not 0.05 <= arguments.memory_share <= MOST_MEMORY:
        made.error(f"--memory-share is {arguments.memory_share:g}; give 0.05 to {MOST_MEMORY:g}")
    phases = random.Random(arguments.seed)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8).tobytes()
    result: dict[str, Any] = {"period_s": PERIOD_S, "changes": {}, "loads": {}}
    if arguments.repeats:
        rows = []
        with running_daemon("--policy", POLICY) as daemon:
            for change in CHANGES:
                both = [
                    react(daemon.client, change, image, phases.uniform(0.0, PERIOD_S)) for _ in range(arguments.repeats)
                ]
                seen, obeyed = [one / PERIOD_S for one, _ in both], [two / PERIOD_S for _, two in both]
                for name, periods in (("snapshot alone", seen), ("first prediction", obeyed)):
                    rows.append((change, name, quantile(periods, 0.5), max(periods), len(periods)))
                result["changes"][change] = {
                    "snapshot": spread(seen),
                    "prediction": spread(obeyed),
                    "max": max(obeyed),
                }
        print_table(("change", "until", "median periods", "max periods", "n"), rows)
        print(f"\none period is {PERIOD_S:g} s\n")
    if arguments.loads:
        result["loads"] = under_load(arguments.loads, arguments.memory_share)
    finish("reaction", result, arguments.output)


def under_load(repeats: int, memory_share: float) -> dict[str, Any]:
    """Put real loads on the machine, print how soon what follows, and return it."""
    rows, result = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.toml").write_text("measure_training_s = 0\n")  # the costs that ship with patchd do
        with running_daemon("--config", str(folder / "config.toml")) as daemon:
            loads = Loads(daemon, memory_share, folder)
            for load in ("processors", "memory"):
                both = [loads.react(load) for _ in range(repeats)]
                for way, followed in (("falls", [one for one, _ in both]), ("returns", [two for _, two in both])):
                    for what in ("snapshot", "allocation", "resolution", "training"):
                        seconds = [getattr(each, what) for each in followed]
                        rows.append((load, way, what, quantile(seconds, 0.5), max(seconds), len(seconds)))
                        result[f"{load} {way} {what}"] = seconds
    print_table(("load", "way", "until", "median, s", "most, s", "n"), rows)
    return result


if __name__ == "__main__":
    main()
