"""An answered prediction told in sentences: where it came from, which rung answered and why, where its time went."""

from __future__ import annotations

import pwd
from datetime import datetime

from ..policies.explain import Section
from .api.explain_schemas import RequestRecord
from .api.schemas import CascadeAnswer

_WHY = {
    "decision": "The decision in force picked the rung",
    "cascade": "The task's cascade was passed",
    "domain": "The image's own size picked the rung",
    "input": "The tensor's own form picked the rung",
    "resolution": "The caller named the rung",
    "accuracy": "The caller asked for an accuracy",
}
_FORMS = {"image": "an encoded image", "pixels": "RGB pixels", "input": "a finished network input"}


def request_section(record: RequestRecord) -> Section:
    """All that is known of one request."""
    when = datetime.fromtimestamp(record.time_s).astimezone()
    patch = f"patch {record.patch_id[:12]}" if record.patch_id else "the base as it is"
    alone = "alone" if record.batch == 1 else f"in a batch of {record.batch}"
    said = [
        f"Task {record.task} answered it on {when:%Y-%m-%d} at {when:%H:%M:%S} with {record.base} at "
        f"{record.resolution} px, {patch}; it ran {alone} on {record.engine}.",
        f"It came as {_came(record)}.",
        f"{_WHY[record.reason]}: {record.why}.",
    ]
    if record.slowed_by > 1.0:
        said.append(f"Other work slowed the device: costs were taken {record.slowed_by:.2f} times as measured.")
    if record.cascade is not None:
        said.append(told_passage(record.cascade))
    said.append(_timing(record))
    return Section(key="request", heading=f"Request {record.id}", sentences=tuple(said))


def told_passage(passed: CascadeAnswer) -> str:
    """One sentence on how far a request went through its cascade."""
    return (
        f"Stage {passed.stage + 1} of {passed.stages} answered, with a score of {passed.confidence:.3f}, at a known "
        f"cost of {passed.cost_ms:.1f} ms; {passed.text}."
    )


def _came(record: RequestRecord) -> str:
    size = "" if record.image_size is None else f" of {record.image_size[0]} x {record.image_size[1]} pixels"
    return f"{_FORMS[record.form]}{size} ({record.bytes / 1e3:.1f} kB) from {_caller(record)}"


def _caller(record: RequestRecord) -> str:
    if record.uid is None:
        return "a caller that the kernel does not name, over TCP perhaps"
    try:
        user = f"user {pwd.getpwuid(record.uid).pw_name}"
    except KeyError:
        user = f"the user with number {record.uid}"
    return user if record.pid is None else f"{user}, process {record.pid}"


def _timing(record: RequestRecord) -> str:
    timing = record.timing
    parts = [
        ("starting the worker", timing.start_worker_ms),
        ("the queue", timing.queue_ms),
        ("decoding", timing.decode_ms),
        ("resizing and normalising", timing.preprocess_ms),
        ("binding patches", timing.bind_ms),
        ("the network", timing.network_ms),
    ]
    told = ", ".join(f"{name} {took:.1f} ms" for name, took in parts if took >= 0.05)
    return f"It took {timing.total_ms:.1f} ms" + (f": {told}." if told else ".")
