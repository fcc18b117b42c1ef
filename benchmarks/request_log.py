"""What the record of requests costs a prediction: at the answer, and in all with its share of the batched write.

Peer in the same run, turn about: the same record written at once, each in its own transaction that waits for the disk,
as decisions and events are. Aims: 50 us of a processor in all, and turns of the loop of less than 5 ms.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from common import finish, parser, print_table, spread
from patchd.daemon.api.explain_schemas import RequestRecord
from patchd.daemon.api.schemas import InferAnswer, InferTiming, Prediction
from patchd.daemon.request_log import CHUNK, Answered, RequestLog
from patchd.daemon.store import Store

ROUNDS, REQUESTS, KEPT = 9, 1000, 10_000
WHY = "160 px: allocation 0.70 gives a budget of 9.5 ms, this rung costs 7.4 ms and is the finest that fits"


def answered(number: int) -> Answered:
    """A prediction as the inference service hands it over."""
    answer = InferAnswer(
        request_id=f"3f2a9c10-{number}",
        task="imagenet",
        predictions=tuple(Prediction(label=f"class {index}", index=index, probability=0.2) for index in range(5)),
        base="lite0",
        resolution=160,
        patch_id="a" * 64,
        decision_id="6b0cd8c5-12",
        allocation=0.7,
        engine="openvino",
        why=WHY,
        timing=InferTiming(total_ms=17.9, queue_ms=0.6, decode_ms=3.9, preprocess_ms=2.4, bind_ms=0.0, network_ms=10.8),
    )
    return Answered(answer, time.time(), "decision", "image", 48_213, (640, 480), 1.0, 1000, 4711)


async def batched(log: RequestLog, entries: list[Answered]) -> tuple[float, float, float]:
    """Processor microseconds of a request at its answer, and in all; milliseconds of the median turn that writes."""
    start = time.thread_time()
    for entry in entries:
        log.put(entry)
    put_s = time.thread_time() - start
    turns = []
    start = time.thread_time()
    while log.waiting:
        turn = time.perf_counter()
        log.write_some()
        turns.append(time.perf_counter() - turn)
    written_s = time.thread_time() - start
    count = len(entries)
    return put_s / count * 1e6, (put_s + written_s) / count * 1e6, statistics.median(turns) * 1e3


def at_once(store: Store, entries: list[Answered], first: int) -> float:
    """Microseconds (of the clock) of a request whose record is written durably before anything else."""
    start = time.perf_counter()
    for place, entry in enumerate(entries):
        record: RequestRecord = entry.record()
        row = (first + place, record.id, record.time_s, record.task, record.model_dump_json(exclude_none=True))
        with store.transaction():
            store.database.execute("insert into requests (n, id, time_s, task, record) values (?, ?, ?, ?, ?)", row)
    return (time.perf_counter() - start) / len(entries) * 1e6


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    puts: list[float] = []
    alls: list[float] = []
    turns: list[float] = []
    peers: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store, other = Store(Path(folder, "a")), Store(Path(folder, "b"))

        async def measure() -> None:
            log = RequestLog(store, KEPT)
            for turn in range(ROUNDS + 1):
                entries = [answered(turn * REQUESTS + number) for number in range(REQUESTS)]
                put, whole, in_turn = await batched(log, entries)
                peer = at_once(other, entries[: REQUESTS // 10], turn * REQUESTS)
                if turn:  # the first round fills caches
                    puts.append(put)
                    alls.append(whole)
                    turns.append(in_turn)
                    peers.append(peer)

        asyncio.run(measure())
        store.close()
        other.close()
    found = {"put_us": puts, "whole_us": alls, "at_once_us": peers, "turn_ms": turns}
    result = {name: spread(values) for name, values in found.items()}
    named = (
        "at the answer, processor us",
        f"in all, {CHUNK} written at a time, processor us",
        "peer: written at once, us",
    )
    rows = [
        (name, *(round(each[key], 1) for key in ("median", "p25", "p75")))
        for name, each in zip((*named, "a turn that writes, ms"), result.values(), strict=True)
    ]
    print_table(("record of a request", "median", "p25", "p75"), rows)
    finish("request_log", result, options.output)


if __name__ == "__main__":
    main()
