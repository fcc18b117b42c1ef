"""How long a replay takes: each trace that ships, and a day of a nervous device, through one policy and through three.

Reading the file is counted in. The peer, in the same run, is the same replay with every step decided, over the first
hour and multiplied: what it would be without leaving out the steps that a policy cannot tell apart. A last table has
the size of an hour recorded once a second: version 1 of the format, version 2, and both compressed.

The aim: a day in under five seconds, on one core.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import time
from collections.abc import Sequence

from common import finish, parser, print_table, running_daemon
from patchd.policies.decision import Ladder, Rung
from patchd.policies.policy import Policy
from patchd.policies.presets_loader import load_preset, trace_names, trace_text
from patchd.policies.replay import ReplayTerms, replay
from patchd.policies.snapshot import Cpu, Memory, Power, Sensor, Snapshot
from patchd.policies.trace import SECTIONS
from patchd.policies.trace_reading import read_trace
from patchd.policies.trace_writing import TraceWriter, new_header

DAY_S, HOUR_S = 86_400, 3600
LADDER = {"any": Ladder(task="any", rungs=tuple(Rung(resolution=side) for side in (224, 192, 160, 128, 96)))}
NERVOUS = "nervous-day"  # drawn here: a moment every second, and every one differs from the last


def nervous_day() -> bytes:
    """A day at one moment a second: busy wanders over the thresholds of the presets, and everything else moves."""
    chance, busy, heat = random.Random(0), 0.3, 50.0
    writer = TraceWriter(new_header(NERVOUS, "Drawn by benchmarks/replay.py.", 1.0))
    lines = [writer.header_line()]
    for t in range(DAY_S):
        busy = min(1.0, max(0.0, busy + 0.01 * (0.35 - busy) + chance.gauss(0.0, 0.03)))
        heat += (40 + 45 * busy - heat) / 60
        seen = Snapshot(
            time_s=0.0,
            cpu=Cpu(count=4, busy=round(busy, 3), busy_own=0.01, load1=round(4 * busy, 2)),
            memory=Memory(total_bytes=8 << 30, available_bytes=(5 << 30) + chance.randrange(1 << 28)),
            power=Power(on_mains=t < DAY_S // 2, battery_charge=round(1 - abs(t / DAY_S - 0.5), 3)),
            temperatures=(Sensor(name="package", celsius=round(heat, 1)),),
        )
        line = writer.line(float(t), seen, last=t == DAY_S - 1)
        if line is not None:
            lines.append(line)
    return ("\n".join(lines) + "\n").encode()


def took(data: bytes, name: str, policies: Sequence[Policy], repeats: int, **terms: object) -> float:
    """Median processor seconds of reading and replaying."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        replay(read_trace(data, name), policies, LADDER, terms=ReplayTerms.model_validate(terms))
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def plain(data: bytes, name: str, policy: Policy, lasts_s: float) -> float:
    """Processor seconds with every step decided, from those of the first hour."""
    part_s = min(HOUR_S, lasts_s)
    return took(data, name, [policy], 1, every_step=True, until_s=part_s) * lasts_s / part_s


def sizes(seconds: int) -> dict[str, float]:
    """Bytes an hour of recording this machine under the daemon, once a second, in each form."""
    with running_daemon() as daemon:
        seen = []
        for _ in range(seconds):
            seen.append(daemon.client.snapshot())
            time.sleep(1.0)
    old, new = [], []
    writer = TraceWriter(new_header("hour", "s", 1.0))
    for t, snapshot in enumerate(seen):
        dumped = snapshot.model_dump(mode="json", exclude_none=True, include=set(SECTIONS))
        old.append(json.dumps({"t": t, **dumped}, separators=(",", ":")))
        new.append(writer.line(float(t), snapshot))
    scale = HOUR_S / seconds
    texts = {"1": "\n".join(old), "2": "\n".join(line for line in new if line is not None)}
    plain_sizes = {f"version {v}": len(text.encode()) * scale for v, text in texts.items()}
    return plain_sizes | {f"version {v}, gzip": len(gzip.compress(t.encode())) * scale for v, t in texts.items()}


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=5, help="of each replay; the median counts [default: 5]")
    made.add_argument(
        "--record", type=int, default=120, metavar="SECONDS", help="for the table of sizes [default: 120]"
    )
    arguments = made.parse_args()
    three = [load_preset(name) for name in ("balanced", "performance", "powersave")]
    files = {name: trace_text(name).encode() for name in trace_names()} | {NERVOUS: nervous_day()}
    rows, result = [], {}
    for name, data in files.items():
        trace = read_trace(data, name)
        one = took(data, name, three[:1], arguments.repeats)
        all_three = took(data, name, three, arguments.repeats)
        every = plain(data, name, three[0], trace.duration_s)
        rows.append((name, trace.duration_s / 3600, len(trace.records), one, all_three, every))
        result[name] = {
            "hours": trace.duration_s / 3600,
            "moments": len(trace.records),
            "bytes": len(data),
            "one_policy_s": one,
            "three_policies_s": all_three,
            "every_step_one_policy_s": every,
        }
    print_table(("trace", "hours", "moments", "1 policy, s", "3 policies, s", "1, every step, s"), rows)
    hour = sizes(arguments.record)
    print()
    print_table(("format", "kB an hour"), [(form, size / 1e3) for form, size in hour.items()])
    finish("replay", {"traces": result, "bytes_per_hour": hour}, arguments.output)


if __name__ == "__main__":
    main()
