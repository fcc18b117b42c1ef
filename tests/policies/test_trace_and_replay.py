"""The format of traces, and replaying them through policies."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.decide import decide
from patchd.policies.decision import Ladder, Rung
from patchd.policies.errors import BadInputError, TraceError
from patchd.policies.explain import flattened, sections
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.presets_loader import load_preset, load_trace, preset_names, trace_names, trace_text
from patchd.policies.replay import NEUTRAL, ReplayResult, ReplayTerms, replay
from patchd.policies.rules import initial_state
from patchd.policies.signals import SIGNALS, signals
from patchd.policies.snapshot import Cpu, Power, Sensor, Snapshot
from patchd.policies.trace import MINOR, SECTIONS, DaemonWork, TaskWork, Trace
from patchd.policies.trace_reading import merged, parse_trace, read_trace
from patchd.policies.trace_writing import TraceWriter, difference, new_header, rounded
from snapshots import SNAPSHOTS

LADDER = {
    "imagenet": Ladder(
        task="imagenet", rungs=tuple(Rung(resolution=s, cost_ms=c) for s, c in ((96, 4), (128, 6), (160, 8), (224, 12)))
    )
}
HEADER = TraceWriter(new_header("t", "a story", 1.0)).header_line()
VERSION_1 = '{"format":"patchd-trace","version":1,"name":"t","story":"s","period_s":1.0}'


def written(*moments: tuple[float, Snapshot]) -> str:
    writer = TraceWriter(new_header("t", "a story", 1.0))
    lines = [writer.line(t, snapshot, last=True) for t, snapshot in moments]
    return "\n".join([writer.header_line(), *(line for line in lines if line is not None)]) + "\n"


def given_at(trace: Trace, t: float) -> dict[str, object]:
    merged_over = trace.at(t, NEUTRAL)
    return merged_over.model_dump(mode="json", exclude_none=True, include=set(SECTIONS))


# the format


@settings(max_examples=40)
@given(st.lists(SNAPSHOTS, min_size=1, max_size=5), st.booleans())
def test_what_is_recorded_is_what_is_replayed_to_the_digits_that_are_kept(seen: list[Snapshot], packed: bool) -> None:
    data = written(*((float(t), snapshot) for t, snapshot in enumerate(seen))).encode()
    trace = read_trace(gzip.compress(data) if packed else data, "f")
    assert trace.notes == ()
    for t, snapshot in enumerate(seen):
        wanted = snapshot.model_dump(mode="json", exclude_none=True, include=set(SECTIONS))
        for reading in wanted.get("added", ()):
            reading["taken_s"] = NEUTRAL.time_s
        assert rounded(given_at(trace, t + 0.5)) == rounded(wanted)


SCALARS = st.booleans() | st.integers() | st.text(max_size=3)
OBJECTS: st.SearchStrategy[dict[str, object]] = st.deferred(
    lambda: st.fixed_dictionaries(
        {},
        optional={
            "a": SCALARS,
            "b": SCALARS,
            "list": st.lists(SCALARS, max_size=3),
            "objects": st.lists(st.fixed_dictionaries({}, optional={"a": SCALARS, "b": SCALARS}), max_size=2),
            "inner": OBJECTS,
        },
    )
)


@settings(max_examples=50)
@given(OBJECTS, OBJECTS)
def test_a_difference_makes_the_new_value_of_the_old_one(old: dict[str, object], new: dict[str, object]) -> None:
    change = difference(old, new)
    assert merged(old, json.loads(json.dumps(change))) == new
    assert (change == {}) == (old == new)


def test_a_line_holds_what_has_changed_alone() -> None:
    first = Snapshot(time_s=0, cpu=Cpu(count=4, busy=0.1), temperatures=(Sensor(name="a", celsius=40.0),) * 2)
    second = first.model_copy(
        update={"temperatures": (first.temperatures[0], Sensor(name="a", celsius=41.26)), "power": Power(on_mains=True)}
    )
    writer = TraceWriter(new_header("t", "s", 1.0))
    writer.line(0.0, first)
    line = writer.line(1.0, second)
    assert line is not None
    assert json.loads(line) == {"t": 1, "power": {"on_mains": True}, "temperatures": {"1": {"celsius": 41.26}}}
    assert writer.line(2.0, second) is None
    assert writer.line(61.5, second) == '{"t":61.5}'  # a sign of life, for a recording that will be killed
    assert writer.line(62.0, second, last=True) == '{"t":62}'


def test_what_the_daemon_did_is_recorded_beside_the_device() -> None:
    writer = TraceWriter(new_header("t", "s", 1.0))
    seen = Snapshot(time_s=0, cpu=Cpu(count=4))
    work = DaemonWork(policy="balanced", inference=0.5, tasks={"digits": TaskWork(resolution=96, per_second=2.5)})
    lines = [writer.header_line(), writer.line(0.0, seen, work), writer.line(1.0, seen, None, "restarted")]
    trace = parse_trace("\n".join(line for line in lines if line), "f")
    assert [record.work for record in trace.records] == [work, work]
    assert trace.records[1].note == "restarted"
    assert "patchd" not in trace.records[0].given


def test_version_1_is_read_and_each_of_its_lines_stands_for_itself() -> None:
    lines = (VERSION_1, '{"t": 0, "power": {"on_mains": false}}', '{"t": 1, "cpu": {"count": 2}}')
    trace = parse_trace("\n".join(lines), "f")
    device = Snapshot(time_s=5.0, cpu=Cpu(count=3), power=Power(on_mains=True))
    assert trace.at(0.0, device).power.on_mains is False
    assert trace.at(0.0, device).cpu == device.cpu
    assert trace.at(1.0, device).power.on_mains is True
    assert (trace.at(1.0, device).source, trace.at(1.0, device).time_s) == ("trace:t", 5.0)


def test_in_version_2_a_section_stands_until_it_is_changed_or_taken_back() -> None:
    lines = (
        HEADER,
        '{"t":0,"power":{"on_mains":false,"battery_charge":0.5}}',
        '{"t":1,"power":{"battery_charge":null}}',
    )
    trace = parse_trace("\n".join([*lines, '{"t":2}', '{"t":3,"power":null}']), "f")
    device = Snapshot(time_s=5.0, cpu=Cpu(count=3), power=Power(on_mains=True, battery_charge=0.9))
    charges = [trace.at(t, device).power for t in (0, 1, 2, 3)]
    assert charges == [Power(on_mains=False, battery_charge=0.5), *[Power(on_mains=False)] * 2, device.power]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f:1: .*header"),
        ("{}", "f:1"),
        ("[" * 100_000, "f:1"),
        (HEADER, "at least one record"),
        (HEADER + "\nnonsense\n", "f:2: not a line of JSON"),
        (HEADER + "\n[1]\n", "f:2: a record is a JSON object"),
        (HEADER + '\n{"t": 1}\n{"t": 1}', "f:3"),
        (HEADER + '\n{"t": true}', "f:2: .*'t'"),
        (HEADER + '\n{"t": 1, "weather": 3}', "'weather' is no section of a trace; known are cpu"),
        (HEADER + '\n{"t": 1, "cpu": {"count": 1, "colour": 3}}', "f:2: .*'cpu.colour'"),
        (HEADER + '\n{"t": 1, "cpu": {"busy": 0.5}}', "f:2: .*'cpu.count'"),
        (HEADER + '\n{"t": 1, "temperatures": []}\n{"t": 2, "temperatures": {"0": {}}}', "f:3: .*no place '0'"),
        (HEADER + '\n{"t": Infinity}\n', "f:2"),
        (HEADER + '\n{"t": 1, "cpu": {"count": 2, "load1": 1e999}}\n', "f:2: .*1e999 is too large"),
        (HEADER.replace('"version":2', '"version":3') + '\n{"t": 0}', "version 3, and this patchd reads 1 to 2"),
        (HEADER.replace('"period_s":1.0', '"period_s":1.0,"timezone":"Moon/Sea"') + '\n{"t": 0}', "f:1: .*'Moon/Sea'"),
        (
            HEADER.replace('"period_s":1.0', '"period_s":1.0,"start":"2026-07-06T07:30"') + '\n{"t": 0}',
            "f:1: .*'start'",
        ),
    ],
)
def test_a_wrong_trace_is_refused_with_file_and_line(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said) as refused:
        read_trace(text.encode(), "f")
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda tail: (HEADER + "\n" + tail).encode()))
def test_any_bytes_are_a_trace_or_one_sentence_with_file_and_line(data: bytes) -> None:
    for each in (data, gzip.compress(data), gzip.compress(data)[:-9]):
        try:
            read_trace(each, "the-file")
        except TraceError as error:
            assert error.message.startswith("the-file:")
            assert str(error).isprintable()


@settings(max_examples=50)
@given(st.data())
def test_a_recording_that_was_killed_is_read_up_to_its_last_whole_line(data: st.DataObject) -> None:
    busy = data.draw(st.lists(st.floats(0, 1), min_size=2, max_size=8))
    text = written(*((float(t), Snapshot(time_s=0, cpu=Cpu(count=2, busy=b))) for t, b in enumerate(busy))).encode()
    second = text.index(b"\n", text.index(b"\n") + 1) + 1
    cut = data.draw(st.integers(second, len(text) - 1))
    trace = read_trace(text[:cut] + b"\0" * data.draw(st.sampled_from([0, 300])), "f")
    whole = text[:cut].count(b"\n") - 1
    assert len(trace.records) in (whole, whole + 1)  # a line that lacks its end alone is whole
    if len(trace.records) == whole and text[cut - 1 : cut] != b"\n":
        assert trace.notes == (
            f"f ends in the middle of a line, as a recording does that was killed; it is read up to second "
            f"{whole - 1}.",
        )


def test_a_compressed_recording_that_was_killed_is_read_as_far_as_it_goes() -> None:
    moments = [(float(t), Snapshot(time_s=0, cpu=Cpu(count=2, busy=t / 1000))) for t in range(1000)]
    packed = gzip.compress(written(*moments).encode())
    trace = read_trace(packed[: len(packed) // 2], "f")
    assert 10 < len(trace.records) < 1000
    assert "read up to second" in trace.notes[0]


def test_what_a_newer_minor_version_added_is_left_out_and_said() -> None:
    newer = HEADER.replace(f'"minor":{MINOR}', '"minor":9')
    lines = (newer, '{"t":0,"cpu":{"count":2,"cores_asleep":1},"weather":{"rain":true}}', '{"t":1,"cpu":{"busy":0.5}}')
    trace = parse_trace("\n".join(lines), "f")
    assert trace.at(1.0, NEUTRAL).cpu == Cpu(count=2, busy=0.5)
    assert trace.notes == (
        f"f is of format 2.9 and this patchd reads 2.{MINOR}: cpu.cores_asleep, weather is left out; "
        "update patchd to have it.",
    )


# the traces that ship


@pytest.mark.parametrize("name", trace_names())
def test_every_shipped_trace_is_small_and_tells_its_story(name: str) -> None:
    trace = load_trace(name)
    assert trace.name == name
    assert len(trace.header.story) > 40
    assert len(trace_text(name).encode()) < 150_000


@pytest.mark.parametrize("name", trace_names())
def test_every_trace_replays_under_every_preset(name: str) -> None:
    trace = load_trace(name)
    presets = [load_preset(policy) for policy in preset_names()]
    until_s = min(2 * 3600.0, trace.duration_s)  # all of it is replayed by benchmarks/replay.py
    results = replay(trace, presets, LADDER, terms=ReplayTerms(until_s=until_s))
    assert [result.policy for result in results] == list(preset_names())
    for result in results:
        (task,) = result.tasks
        assert sum(task.seconds_at.values()) == pytest.approx(result.duration_s)
        assert result.duration_s == pytest.approx(until_s)
        assert result.changes


# replaying


def replayed(trace: Trace, policy: Policy, **terms: object) -> ReplayResult:
    (result,) = replay(trace, [policy], LADDER, terms=ReplayTerms.model_validate(terms))
    return result


def policy_of(text: str) -> Policy:
    return parse_policy('[policy]\nname = "p"\n' + text, "p.toml")


def trace_of(*values: tuple[float, Mapping[str, object]], **header: object) -> Trace:
    lines = [TraceWriter(new_header("t", "a story", 1.0, **header)).header_line()]
    lines += [json.dumps({"t": t, "cpu": {"count": 2}, **sections}) for t, sections in values]
    return parse_trace("\n".join(lines), "f")


def test_the_demo_trace_falls_twice_and_pauses_training() -> None:
    result = replayed(load_trace("demo"), load_preset("balanced"))
    assert [change.inference for change in result.changes] == [1.0, 0.3, 0.1]
    assert result.training.seconds == 8.0
    assert {"battery-low", "processors-full"} <= set(result.rules)


THRESHOLDS = (0.2, 0.4, 0.6)
CONDITIONS = st.builds(
    lambda signal, way, at, band, for_s, leave_for_s: (
        f'{{ signal = "{signal}", {way} = {at}, '
        f"{'leave_below' if way == 'above' else 'leave_above'} = "
        f"{round(at - band if way == 'above' else at + band, 2)}, "
        f"for_s = {for_s}, leave_for_s = {leave_for_s} }}"
    ),
    st.sampled_from(["cpu.busy", "battery.charge", "memory.available"]),
    st.sampled_from(["above", "below"]),
    st.sampled_from(THRESHOLDS),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    st.sampled_from([0.0, 4.0]),
) | st.sampled_from(['{ signal = "power.on_mains", is = false }', '{ signal = "power.on_mains", is = true }'])
LEVEL = st.sampled_from(["0.0", "0.3", "0.7"])
CURVE = st.builds(
    lambda over, low, high: f'{{ over = "{over}", points = [[0.1, {low}], [0.9, {high}]] }}',
    st.sampled_from(["cpu.busy", "battery.charge"]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.2, 1.0]),
)
RESULTS = st.one_of(
    st.builds("inference = {}\n".format, LEVEL | CURVE),
    st.builds("inference = {0}\ntraining = {0}\n".format, LEVEL),
    st.builds("training = {}\n".format, CURVE),
    st.sampled_from(["training = false\n", "max_resolution = 128\n", "max_minutes_per_day = 1\n"]),
)
RULES = st.lists(
    st.builds(
        lambda conditions, window, results: f"when = [{', '.join(conditions)}]\n{window}{results}",
        st.lists(CONDITIONS, min_size=1, max_size=2),
        st.sampled_from(["", "", 'windows = ["07:31-07:32"]\n']),
        RESULTS,
    ),
    max_size=4,
)
TRAINING = st.sampled_from(
    [
        "",
        "only_on_mains = true",
        "max_celsius = 60",
        "idle_for_s = 50",
        'windows = ["07:31-07:33", "07:34-08:00"]',
        "max_minutes_per_day = 1",
    ]
)
LEVELS = st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.65, 0.9])
MOMENTS = st.fixed_dictionaries(
    {},
    optional={
        "cpu": st.builds(lambda busy: {"count": 2, "busy": busy}, LEVELS),
        "power": st.builds(lambda m, c: {"on_mains": m, "battery_charge": c}, st.booleans(), LEVELS),
        "memory": st.builds(lambda a: {"total_bytes": 1000, "available_bytes": int(a * 1000)}, LEVELS),
        "temperatures": st.builds(lambda c: [{"name": "s", "celsius": c}], st.sampled_from([50, 56, 58, 61])),
        "user": st.builds(lambda s: {"idle_s": s}, st.sampled_from([0, 49, 51])),
    },
)


@settings(max_examples=40)
@given(
    RULES,
    TRAINING,
    st.sampled_from([0.0, 3.0, 10.0]),
    st.lists(st.tuples(st.sampled_from([1, 1, 1, 2, 3, 9, 40]), MOMENTS), min_size=1, max_size=12),
)
def test_steps_that_are_not_decided_would_have_been_decided_the_same(
    rules: list[str],
    training: str,
    raise_after_s: float,
    moments: list[tuple[int, dict[str, object]]],
) -> None:
    text = f"[inference]\nraise_after_s = {raise_after_s}\n[training]\nraise_after_s = {raise_after_s}\n{training}\n"
    for number, rule in enumerate(rules):
        text += f'[[rule]]\nname = "r{number}"\n{rule}'
    policy, t, records = policy_of(text), 0, []
    for lasts, seen in moments:
        records.append((float(t), seen))
        t += lasts
    start = datetime(2026, 7, 6, 7, 30, 17, tzinfo=timezone(timedelta(hours=2)))
    trace = trace_of(*records, (float(t), {}), start=start)
    plain, quick = (replayed(trace, policy, every_step=every) for every in (True, False))
    assert quick == plain


def test_windows_count_by_the_local_time_at_which_a_trace_began() -> None:
    policy = policy_of('[training]\nallocation = 0.5\nwindows = ["07:31-07:33"]\n')
    trace = trace_of((0.0, {}), (599.0, {}), start=datetime(2026, 7, 6, 7, 30, tzinfo=timezone(timedelta(hours=2))))
    result = replayed(trace, policy)
    assert result.training.seconds == 120.0
    assert result.training.waits == {"windows": 480.0}
    assert result.notes == ()
    later = replayed(trace.with_start(datetime(2026, 7, 6, 7, 32, tzinfo=UTC)), policy)
    assert later.training.seconds == 60.0
    nowhen = replayed(trace_of((0.0, {}), (599.0, {})), policy)
    assert nowhen.training.seconds == 600.0
    assert "does not tell the time of day" in nowhen.notes[0]


def test_the_daily_limit_counts_what_the_replay_has_trained() -> None:
    policy = policy_of("[training]\nallocation = 0.5\nmax_minutes_per_day = 2\n")
    start = datetime(2026, 7, 6, 23, 55, tzinfo=timezone(timedelta(hours=2)))
    result = replayed(trace_of((0.0, {}), (599.0, {}), start=start), policy)
    assert result.training.seconds == 240.0  # two minutes before midnight, two after it
    assert result.training.waits == {"max_minutes_per_day": 360.0}


def test_a_part_of_a_trace_is_replayed_and_nothing_outside_it() -> None:
    full = load_trace("demo")
    part = replayed(full, load_preset("balanced"), from_s=10.0, until_s=20.0)
    assert (part.from_s, part.duration_s) == (10.0, 10.0)
    assert part.changes[0].t == 10.0
    assert "processors-full" not in part.rules
    with pytest.raises(BadInputError, match="has nothing between 50 s and 36 s"):
        replayed(full, load_preset("balanced"), from_s=50.0)


BATTERY_RULE = (
    "[inference]\nraise_after_s = 0\nrise_per_s = 1.0\n"
    '[[rule]]\nname = "low"\nwhen = [{ signal = "battery.charge", below = 0.2 }]\ninference = 0.0\ntraining = 0.0\n'
)
LOW, HIGH = ({"power": {"battery_charge": charge}} for charge in (0.1, 0.9))


def test_predictions_follow_the_rate_of_the_trace_and_a_given_rate_goes_before() -> None:
    busy = {"patchd": {"tasks": {"imagenet": {"per_second": 4.0}}}}
    trace = trace_of((0.0, {**HIGH, **busy}), (10.0, LOW), (19.0, {}))
    (task,) = replayed(trace, policy_of(BATTERY_RULE)).tasks
    assert task.predictions_at == {96: 40.0, 224: 40.0}
    assert task.rate_from == "trace"
    given_rate = replayed(trace, policy_of(BATTERY_RULE), rate=2.0)
    assert given_rate.tasks[0].predictions_at == {96: 20.0, 224: 20.0}
    assert given_rate.inference.processor_s is None
    assert given_rate.inference.relative == pytest.approx(20 + 20 * 4 / 12)


def test_processor_seconds_are_those_of_measured_rungs_and_their_threads() -> None:
    trace = trace_of((0.0, HIGH), (10.0, LOW), (19.0, {}))
    result = replayed(trace, policy_of(BATTERY_RULE), measured=True, threads=2.0, rate=1.0)
    assert result.inference.processor_s == pytest.approx(2 * (10 * 0.012 + 10 * 0.004))


def test_energy_is_processor_time_by_what_one_more_busy_processor_takes_as_the_trace_shows_it() -> None:
    def moment(busy: float) -> dict[str, object]:
        return {"power": {"battery_charge": 0.9, "watts": 5.0 + 3.0 * 2 * busy}, "cpu": {"count": 2, "busy": busy}}

    trace = trace_of((0.0, moment(0.2)), (4.0, moment(0.9)), (7.0, moment(0.5)), (9.0, {"cpu": {"count": 2}}))
    result = replayed(trace, policy_of(BATTERY_RULE), measured=True, rate=1.0)
    assert result.energy.source == "trace"
    assert result.energy.watts_per_core == pytest.approx(3.0)
    assert result.energy.inference_joules == pytest.approx(10 * 0.012 * 3.0)
    assert result.energy.training_joules == pytest.approx(10 * 3.0)
    by_hand = replayed(trace, policy_of(BATTERY_RULE), measured=True, watts_per_core=2.0)
    assert by_hand.energy.source == "given"
    assert by_hand.energy.inference_joules == pytest.approx(10 * 0.012 * 2.0)
    for untold in (trace_of((0.0, HIGH), (9.0, {})), trace_of((0.0, moment(0.5)), (9.0, moment(0.5)))):
        energy = replayed(untold, policy_of(BATTERY_RULE), measured=True).energy
        assert (energy.source, energy.training_joules) == (None, None)
        assert "--watts-per-core" in energy.why


def test_training_is_told_in_seconds_slices_steps_and_full_steps() -> None:
    trace = trace_of((0.0, HIGH), (50.0, LOW), (60.0, HIGH), (109.0, {}))
    policy = policy_of(
        BATTERY_RULE + "[training]\nallocation = 0.5\nraise_after_s = 0\nrise_per_s = 1.0\nslice_s = 20\n"
    )
    training = replayed(trace, policy).training
    assert (training.seconds, training.processor_s, training.slices) == (100.0, 100.0, 6)
    assert 0 < training.full_steps < training.steps


def test_changes_of_resolution_are_counted_with_the_least_time_between_two() -> None:
    trace = trace_of((0.0, HIGH), (20.0, LOW), (50.0, HIGH), (90.0, LOW), (99.0, {}))
    (task,) = replayed(trace, policy_of(BATTERY_RULE)).tasks
    assert (task.changes, task.shortest_s, task.over_budget_s) == (3, 30.0, 0.0)


def test_a_rung_that_is_held_is_over_budget_as_long() -> None:
    # Up at 70 s, as more must have been allowed for ten seconds; and not down again before another ten have passed.
    trace = trace_of((0.0, LOW), (60.0, HIGH), (74.0, LOW), (99.0, {}))
    result = replayed(trace, policy_of(BATTERY_RULE))
    (task,) = result.tasks
    assert [change.t for change in result.changes if "px ->" in " ".join(change.changed)] == [70.0, 81.0]
    assert (task.changes, task.shortest_s, task.over_budget_s) == (2, 11.0, 7.0)
    assert result.rules["low"].times == 2


# what decisions tell


def test_a_decision_tells_everything_in_sentences() -> None:
    snapshot = Snapshot(time_s=1.0, cpu=Cpu(count=2, busy=0.9, busy_own=0.0), power=Power(on_mains=True))
    decision, _ = decide(load_preset("balanced"), snapshot, initial_state(), LADDER, None, None, "1")
    told = "\n".join(flattened(sections(decision, snapshot, None)))
    for name in signals(snapshot):
        assert name in told
    for name in set(SIGNALS) - set(signals(snapshot)):
        assert name in told
    verdicts = [c.verdict for c in decision.rungs[0].candidates] + [c.verdict for c in decision.plan.candidates]
    assert all(verdict.casefold() in told.casefold() for verdict in verdicts)


def test_what_changed_is_said_with_its_cause() -> None:
    policy = load_preset("balanced")
    calm = Snapshot(time_s=1.0, cpu=Cpu(count=2), power=Power(on_mains=True, battery_charge=0.5))
    first, state = decide(policy, calm, initial_state(), LADDER, None, None, "1")
    assert first.changed == ()
    low = Snapshot(time_s=2.0, cpu=Cpu(count=2), power=Power(on_mains=False, battery_charge=0.1))
    second, state = decide(policy, low, state, LADDER, None, first, "2")
    assert any("1.00 -> 0.30" in text and "battery-low" in text for text in second.changed)
    assert any("224 px ->" in text for text in second.changed)
    third, _ = decide(policy, low.model_copy(update={"time_s": 3.0}), state, {}, None, second, "3")
    assert third.changed == ("imagenet: answers no more.",)
