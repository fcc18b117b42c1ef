"""What is allowed and hardly meant is found, at its place; and what is claimed of a rule is true of every snapshot."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.conditions import Condition, Rule
from patchd.policies.matching import RuleMemory, match_rules
from patchd.policies.policy import Policy, load_policy
from patchd.policies.policy_checks import Finding, FindingKind, _covers, _unreachable, check_policy
from patchd.policies.policy_tables import Head
from patchd.policies.presets_loader import preset_names, preset_text
from patchd.policies.signals import SIGNALS

HEAD = '[policy]\nname = "p"\n'


def found(text: str, present: set[str] | None = None, tasks: set[str] | None = None) -> list[Finding]:
    return list(check_policy(load_policy("p.toml", HEAD + text), present, tasks))


def rule(name: str, *when: str, results: str = "inference = 0.2\n") -> str:
    conditions = ", ".join(f"{{ {each} }}" for each in when)
    return f'[[rule]]\nname = "{name}"\nwhen = [{conditions}]\n{results}'


def busy(threshold: float, leave: float | None = None, more: str = "") -> str:
    band = "" if leave is None else f", leave_below = {leave}"
    return f'signal = "cpu.busy_other", above = {threshold}{band}{more}'


def calm(threshold: float, leave: float | None = None, more: str = "") -> str:
    band = "" if leave is None else f", leave_above = {leave}"
    return f'signal = "cpu.busy_other", below = {threshold}{band}{more}'


MAINS, BATTERY = 'signal = "power.on_mains", is = true', 'signal = "power.on_mains", is = false'


@pytest.mark.parametrize(
    ("text", "kind", "place", "said"),
    [
        (
            rule("r", MAINS, BATTERY),
            "unreachable",
            (5, '{ signal = "power.on_mains", is = false'),
            "cannot hold at once",
        ),
        (
            rule("r", busy(0.8, 0.7), calm(0.3, 0.5)),
            "unreachable",
            (5, '{ signal = "cpu.busy_other", below'),
            "'r' never matches: cpu.busy_other above 0.8",
        ),
        (
            rule("r", busy(1.0, 0.5)),
            "unreachable",
            (5, '{ signal = "cpu'),
            "1 at most, and cannot be above 1",
        ),
        (
            rule("r", 'signal = "disk.free_bytes", below = 0'),
            "unreachable",
            (5, '{ signal = "disk'),
            "is 0 at least, and cannot be below 0",
        ),
        (
            rule("wide", busy(0.5, 0.4)) + rule("narrow", busy(0.7, 0.6), BATTERY),
            "shadowed",
            (8, 'name = "narrow"'),
            "'narrow' never decides: whenever it matches, 'wide' does",
        ),
        (rule("one", busy(0.5)) + rule("two", busy(0.5)), "shadowed", (8, 'name = "two"'), "'two' never decides"),
        (
            rule("r", busy(0.5), results="inference = 1.0\ntraining = 0.9\n"),
            "no_effect",
            (4, 'name = "r"'),
            "changes nothing",
        ),
        (
            rule("up", busy(0.6, 0.4)) + rule("down", calm(0.5, 0.55)),
            "interlocked",
            (9, "below = 0.5"),
            "'up' and 'down' interlock on cpu.busy_other",
        ),
        (rule("r", busy(0.5, 0.5)), "no_band", (5, "above = 0.5"), "entered and left at 0.5 alike"),
        (rule("r", 'signal = "temperature.max", above = 0'), "no_band", (5, "above = 0"), "temperature.max"),
    ],
    ids=lambda each: each if isinstance(each, str) and each.isidentifier() else "",
)
def test_what_is_hardly_meant_is_found_at_its_place(text: str, kind: str, place: tuple[int, str], said: str) -> None:
    (finding,) = found(text)
    assert (finding.kind, finding.line) == (kind, place[0])
    assert (HEAD + text).splitlines()[finding.line - 1][finding.column - 1 :].startswith(place[1])
    assert said in finding.text
    assert finding.advice
    assert str(finding).startswith(f"p.toml:{finding.line}:{finding.column}: Rule")


@pytest.mark.parametrize(
    "text",
    [
        rule("r", busy(0.6, 0.4), calm(0.5, 0.7)),  # enters above 0.6 and still holds at 0.45
        rule("r", busy(0.8, 0.7, ", leave_for_s = 2.0"), calm(0.3)),  # is left late
        rule("wide", busy(0.5, 0.4)) + rule("narrow", busy(0.7, 0.6), results="inference = 0.1\n"),
        rule("wide", busy(0.5, 0.4)) + rule("narrow", busy(0.7, 0.6), results="training = 0.1\n"),
        rule("wide", busy(0.5, 0.4, ", for_s = 5.0")) + rule("narrow", busy(0.7, 0.6)),  # the wide one waits
        rule("wide", busy(0.5, 0.4)) + rule("narrow", busy(0.7, 0.3)),  # the narrow one is left later
        rule("up", busy(0.6, 0.55)) + rule("down", calm(0.4, 0.45)),
        rule("r", busy(0.5), results="memory_bytes = 1e9\n"),
    ],
)
def test_what_is_meant_is_left_alone(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_without_findings(name: str) -> None:
    assert check_policy(load_policy(name, preset_text(name)), set(SIGNALS), set()) == ()


def test_signals_tasks_and_removed_rules_that_are_not_there_are_found() -> None:
    text = (
        rule("r", 'signal = "temperature.max", above = 80.0')
        + "[[rule]]\nname = 'c'\ninference = { over = 'battery.charge', points = [[0.1, 0.1], [0.5, 1.0]] }\n"
        + "[task.grocerys]\ninference = 0.5\n[[retrain]]\ntask = 'gone'\nevery_days = 1\n"
    )
    told = found(text, present={"cpu.busy"}, tasks={"groceries"})
    assert [(each.kind, each.line) for each in told] == [
        (FindingKind.MISSING_SIGNAL, 5),
        (FindingKind.MISSING_SIGNAL, 9),
        (FindingKind.UNKNOWN_TASK, 10),
        (FindingKind.UNKNOWN_TASK, 13),
    ]
    assert told[0].text == "Rule 'r' cannot match now: this machine has no temperature.max (hottest sensor)."
    assert told[2].advice == "Did you mean 'groceries'?"
    loaded = load_policy("p.toml", 'remove_rules = ["hott"]\n' + HEAD)
    (finding,) = check_policy(loaded)
    assert (finding.kind, finding.line, finding.column) == (FindingKind.REMOVES_NOTHING, 1, 17)


# what is claimed is true of every trace

GRID = [round(0.1 * step, 1) for step in range(11)]
TIMES = st.sampled_from([0.0, 0.0, 1.0, 3.0])


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    signal = draw(st.sampled_from(["cpu.busy_other", "battery.charge", "power.on_mains"]))
    if signal == "power.on_mains":
        made = {"signal": signal, "is": draw(st.booleans())}
    else:
        side, leave = draw(st.sampled_from([("above", "leave_below"), ("below", "leave_above")]))
        enter, other = draw(st.sampled_from(GRID)), draw(st.sampled_from(GRID))
        band = min(enter, other) if side == "above" else max(enter, other)
        made = {"signal": signal, side: enter, leave: band}
    return Condition.model_validate({**made, "for_s": draw(TIMES), "leave_for_s": draw(TIMES)})


RULES = st.lists(st.lists(conditions(), min_size=1, max_size=3), min_size=1, max_size=4).map(
    lambda rules: tuple(Rule(name=str(i), when=tuple(when), inference=0.1) for i, when in enumerate(rules))
)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "cpu.busy_other": st.sampled_from([round(0.05 * step, 2) for step in range(21)]),
        "battery.charge": st.sampled_from([round(0.05 * step, 2) for step in range(21)]),
        "power.on_mains": st.sampled_from([0.0, 1.0]),
    },
)
TRACES = st.lists(st.tuples(VALUES, st.sampled_from([0.5, 1.0, 2.0, 5.0])), min_size=1, max_size=25)


@given(RULES, TRACES)
@settings(max_examples=150)
def test_an_unreachable_rule_never_matches_and_a_covered_one_never_alone(
    rules: tuple[Rule, ...], trace: list[tuple[dict[str, float], float]]
) -> None:
    policy = Policy(policy=Head(name="p"), rule=rules)
    unreachable = {each.rule for each in _unreachable(policy)}
    covered = [(one.name, two.name) for one in rules for two in rules if one is not two and _covers(two, one)]
    memory, now = RuleMemory(), 0.0
    for index, (values, passed) in enumerate(trace):
        now += passed
        matched = match_rules(policy, values, memory, now, index == 0, None)
        memory = matched.memory
        names = {match.rule.name for match in matched.matching}
        assert not names & unreachable
        assert all(wider in names for narrow, wider in covered if narrow in names)


@given(RULES)
@settings(max_examples=60)
def test_a_single_condition_that_is_called_unreachable_has_no_value_that_enters_it(rules: tuple[Rule, ...]) -> None:
    for each in rules:
        alone = each.model_copy(update={"when": each.when[:1]})
        policy = Policy(policy=Head(name="p"), rule=(alone,))
        values = [{alone.when[0].signal: value} for value in (*GRID, 0.05, 0.95)]
        enters = any(match_rules(policy, seen, RuleMemory(), 0.0, True, None).matching for seen in values)
        assert enters != bool(list(_unreachable(policy)))
