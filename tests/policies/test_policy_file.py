"""The policy file: what is accepted, and that every mistake is one sentence naming file, line and key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.errors import NotFoundError, PolicyError
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.policy_schema import policy_json_schema
from patchd.policies.presets_loader import load_preset, preset_names, preset_text
from patchd.policies.toml_source import Position, positions

HEAD = '[policy]\nname = "x"\n'
RULE = '[[rule]]\nname = "r"\nwhen = [{ signal = "battery.charge", below = 0.2 }]\ninference = 0.1\n'


def test_every_preset_is_valid_and_named_after_its_file() -> None:
    assert preset_names() == ("balanced", "performance", "powersave")
    for name in preset_names():
        policy = load_preset(name)
        assert policy.policy.name == name
        assert policy.policy.description
        assert policy.rule


def test_presets_that_save_more_promise_less_and_audit_less() -> None:
    tables = [load_preset(name).cascade for name in ("performance", "balanced", "powersave")]
    assert [table.epsilon for table in tables] == [0.005, 0.01, 0.02]
    assert [table.audit_share for table in tables] == [0.02, 0.01, 0.005]
    assert all(table.enabled and table.shorten for table in tables)


def test_a_policy_without_the_table_has_cascades_that_promise_one_percent() -> None:
    table = parse_policy(HEAD, "f").cascade
    assert (table.enabled, table.epsilon, table.delta, table.audit_share) == (True, 0.01, 0.05, 0.01)
    assert (table.shorten, table.false_alarm_every) == (True, 1_000_000)


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(NotFoundError, match=r"turbo.*balanced"):
        load_preset("turbo")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (HEAD + "[inferense]\n", 3, "inferense.*inference"),
        (HEAD + "\n[training]\nallocatoin = 0.5\n", 5, "allocatoin.*allocation"),
        (HEAD + "[inference]\nallocation = 2\n", 4, "allocation"),
        (HEAD + "[inference]\nallocation = true\n", 4, "allocation"),
        (HEAD + '[inference]\nallocation = "0.5"\n', 4, "allocation"),
        (HEAD + "[inference]\nallocation = nan\n", 4, "allocation"),
        (HEAD + "[inference]\nmin_resolution = 224\nmax_resolution = 96\n", 4, "224 is above max_resolution 96"),
        (HEAD + "[cascade]\nepsilom = 0.01\n", 4, "epsilom.*epsilon"),
        (HEAD + "[cascades]\n", 3, "cascades.*cascade"),
        (HEAD + "[cascade]\nepsilon = 0.0\n", 4, "cascade.epsilon.*greater than 0"),
        (HEAD + "[cascade]\n# half\nepsilon = 0.5\n", 5, "cascade.epsilon.*less than 0.5"),
        (HEAD + "[cascade]\ndelta = 1\n", 4, "cascade.delta"),
        (HEAD + "[cascade]\naudit_share = 1.5\n", 4, "cascade.audit_share"),
        (HEAD + "[cascade]\nenabled = 1\n", 4, "cascade.enabled"),
        (HEAD + '[cascade]\nenabled = true\nshorten = "yes"\n', 5, "cascade.shorten"),
        (HEAD + "[cascade]\nfalse_alarm_every = 10\n", 4, "cascade.false_alarm_every.*100"),
        (HEAD + "[training]\nwindow = []\n", 4, "window.*windows"),
        (HEAD + '[training]\nwindows = [\n  "01:00-05:00",\n  "mon-fry 1:00-2:00"]\n', 6, "windows.1.*the day 'fry'"),
        (HEAD + '[training]\nwindows = ["25:00-26:00"]\n', 4, "no clock shows: 25:00"),
        (HEAD + '[training]\nwindows = ["at night"]\n', 4, "'at night' is no window; write 01:00-05:00"),
        (HEAD + "[training]\nonly_on_mains = 1\n", 4, "only_on_mains"),
        (HEAD + "[training]\nidle_for_s = -1\n", 4, "idle_for_s"),
        (HEAD + "[training]\nmax_minutes_per_day = 0\n", 4, "max_minutes_per_day"),
        (HEAD + "[training]\nmax_celsius = 300\n", 4, "max_celsius"),
        (HEAD + '[[retrain]]\ntask = "t"\n', 3, "exactly one of at and every_days"),
        (HEAD + '[[retrain]]\ntask = "t"\nat = "3 am"\n', 5, "'3 am' is no time of the week"),
        (HEAD + '[[retrain]]\ntask = "t"\nat = "03:00"\nkinds = ["base_fraction"]\n', 6, "base_fraction"),
        (HEAD + '[[retrain]]\ntask = "t"\nat = "03:00"\nkinds = ["hed"]\n', 6, "retrain.0.kinds.0"),
        (HEAD + '[[retrain]]\ntask = "t"\nat = "03:00"\nevry = 1\n', 6, "evry.*every_days"),
        (HEAD + '[[retrain]]\ntask = "t"\nevery_days = 1\n' * 2, 7, "task 't' stands in two"),
        (HEAD + RULE.replace("battery.charge", "batery.charge"), 5, "batery.charge.*battery.charge"),
        (HEAD + RULE.replace("below = 0.2", "below = 20"), 5, "share from 0 to 1"),
        (HEAD + RULE.replace("below = 0.2", "below = 0.2, leave_above = 0.1"), 5, "leave_above"),
        (HEAD + RULE.replace("below = 0.2", "below = 0.2, above = 0.5"), 5, "exactly one"),
        (HEAD + RULE.replace("inference = 0.1\n", ""), 3, "at least one of inference and training"),
        (HEAD + RULE.replace("inference = 0.1", "training = true"), 6, "'rule.0.training' is true; write false"),
        (HEAD + RULE.replace("inference = 0.1\n", "windows = ['8-9']\n"), 6, "'8-9' is no window"),
        (HEAD + "[[rule]]\nname = 'r'\ntraining = 0.1\n", 3, "say when it counts"),
        (HEAD + "[task.Pets]\ninference = 0.1\n", 3, "Pets"),
        (HEAD + "[task.pets]\ninferense = 0.1\n", 4, "task.pets.inferense.*inference"),
        (HEAD + "[task.pets]\nmin_resolution = 192\nmax_resolution = 96\n", 4, "192 is above max_resolution 96"),
        (HEAD + "[application.a]\ninference = 0.1\n", 3, "give user, unit or program"),
        (HEAD + "[application.a]\nprogram = 'a-very-long-program'\n", 4, "write 'a-very-long-pro'"),
        (HEAD + "[application.a]\nuser = 'x'\ncascade = { epsilo = 1 }\n", 5, "cascade.epsilo.*epsilon"),
        (HEAD + RULE + RULE, 8, "two rules are named 'r'"),
        (HEAD + "when = [\n", 3, "not TOML"),
        ("", 1, "policy"),
        ("x" * 50, 1, "not TOML"),
    ],
)
def test_each_mistake_names_file_line_and_key(text: str, line: int, said: str) -> None:
    with pytest.raises(PolicyError, match=rf"(?s)^my.toml:{line}:\d+: .*{said}") as caught:
        parse_policy(text, "my.toml")
    assert "Traceback" not in str(caught.value)
    assert "\n" not in caught.value.message.strip()


def test_the_second_condition_of_a_long_when_has_its_own_line() -> None:
    text = HEAD + (
        '[[rule]]\nname = "r"\nwhen = [\n    { signal = "cpu.busy", above = 0.5 },  # { not this\n'
        '    { signal = "cpu.bussy", above = 0.5 },\n]\ntraining = 0.0\n'
    )
    with pytest.raises(PolicyError, match=r"^f:7:5: .*cpu.bussy"):
        parse_policy(text, "f")


@given(
    comments=st.lists(st.text(alphabet="#[]{}=,ab \"'", max_size=12), min_size=4, max_size=4),
    blank=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    which=st.integers(0, 2),
)
def test_the_place_of_a_key_is_found_among_comments_blank_lines_and_inline_tables(
    comments: list[str], blank: list[int], which: int
) -> None:
    lines: list[str] = []
    expected: dict[tuple[str | int, ...], Position] = {}
    for index in range(3):
        lines += [""] * blank[index] + [f"# {comments[index]}"] + ["[[rule]]"]
        lines.append(f'name = "r{index}"')
        lines.append("when = [")
        for part in range(2):
            expected["rule", index, "when", part, "signal"] = Position(len(lines) + 1, 5)
            expected["rule", index, "when", part, "above"] = Position(len(lines) + 1, 25)
            lines.append(f'  {{ signal = "a # [b]", above = {part} }}, # {comments[3]}')
        lines.append("]")
        expected["rule", index, "training"] = Position(len(lines) + 1, 3)
        lines.append("  training = 0.5")
    text = "\n".join(lines)
    found = positions(text)
    for path, place in expected.items():
        if path[1] == which:
            assert found[path] == place


@given(
    st.text(max_size=120)
    | st.lists(
        st.sampled_from(
            ["[policy]", 'name = "x"', "[inference]", "allocation = 0.5", "[[rule]]", "when = [", "{ signal =", "]",
             "}", '"cpu.busy"', "above = 1", ", ", "training = 9", "is = true", "#", "\\", '"""', "1e999", "\u2028"]
        ),
        max_size=14,
    ).map("\n".join)
)  # fmt: skip
def test_any_text_gives_a_policy_or_a_policy_error(text: str) -> None:
    try:
        assert isinstance(parse_policy(text, "f"), Policy)
    except PolicyError as error:
        assert str(error).startswith("f:")


@given(name=st.sampled_from(preset_names()), at=st.integers(0, 4000), piece=st.text(max_size=6), cut=st.integers(0, 6))
def test_a_damaged_preset_gives_a_policy_or_a_policy_error(name: str, at: int, piece: str, cut: int) -> None:
    text = preset_text(name)
    at = at % len(text)
    try:
        parse_policy(text[:at] + piece + text[at + cut :], "f")
    except PolicyError as error:
        assert str(error).startswith("f:")


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 3000 + "]" * 3000])
def test_monstrous_toml_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(PolicyError, match=r"^f:1"):
        parse_policy(text, "f")


def test_the_json_schema_knows_every_table() -> None:
    assert set(policy_json_schema()["properties"]) == {
        *("policy", "inference", "training", "cascade", "examples", "rule", "retrain", "include", "remove_rules"),
        *("task", "application"),
    }
