"""Files laid over one another: what wins, where each key comes from, and that every mistake names its file."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.errors import PolicyError
from patchd.policies.policy import LoadedPolicy, load_policy, parse_policy
from patchd.policies.policy_layers import Layer, merge, read_layer
from patchd.policies.policy_schema import policy_json_schema
from patchd.policies.policy_text import effective_text
from patchd.policies.presets_loader import load_preset, preset_names, preset_text

HEAD = '[policy]\nname = "mine"\n'


def rule(name: str, training: float = 0.0, more: str = "") -> str:
    when = '[{ signal = "cpu.busy_other", above = 0.5 }]'
    return f'[[rule]]\nname = "{name}"\nwhen = {when}\ntraining = {training}\n{more}'


def load(files: dict[str, str], *drop_ins: str) -> LoadedPolicy:
    """The policy of the first file, with the others at hand."""

    def read(name: str) -> str:
        if name.startswith("preset:"):
            return preset_text(name.removeprefix("preset:"))
        if name not in files:
            raise PolicyError(f"{name}: cannot be read: No such file or directory.")
        return files[name]

    first = next(iter(files))
    return load_policy(first, files[first], read, drop_ins)


def test_a_file_starts_from_a_preset_and_changes_single_keys() -> None:
    text = f'include = ["preset:balanced"]\nremove_rules = ["hot"]\n{HEAD}[inference]\nmax_resolution = 160\n'
    policy, preset = load({"/etc/mine.toml": text}).policy, load_preset("balanced")
    assert policy.policy.name == "mine"
    assert policy.policy.description == preset.policy.description
    assert policy.inference == preset.inference.model_copy(update={"max_resolution": 160})
    assert policy.rule == tuple(rule for rule in preset.rule if rule.name != "hot")


def test_includes_are_relative_to_the_file_and_later_ones_win() -> None:
    loaded = load(
        {
            "/etc/p/mine.toml": f'include = ["parts/a.toml", "../b.toml"]\n{HEAD}',
            "/etc/p/parts/a.toml": 'include = ["c.toml"]\n[training]\nslice_s = 1\nraise_after_s = 1\n',
            "/etc/p/parts/c.toml": "[training]\nslice_s = 3\nidle_for_s = 3\n",
            "/etc/b.toml": "[training]\nraise_after_s = 2\n",
        }
    )
    training = loaded.policy.training
    assert (training.slice_s, training.raise_after_s, training.idle_for_s) == (1, 2, 3)
    assert loaded.merged.files == ("/etc/p/parts/c.toml", "/etc/p/parts/a.toml", "/etc/b.toml", "/etc/p/mine.toml")
    assert str(loaded.where(("training", "slice_s"))) == "/etc/p/parts/a.toml:3:1"
    assert str(loaded.where(("training", "idle_for_s"))) == "/etc/p/parts/c.toml:3:1"


def test_drop_ins_need_no_head_and_count_after_the_file_in_their_order() -> None:
    loaded = load(
        {
            "mine.toml": HEAD + "[inference]\nallocation = 0.9\n" + rule("a") + rule("b"),
            "10.toml": "[inference]\nallocation = 0.5\n" + rule("b", 0.3) + rule("c"),
            "20.toml": 'remove_rules = ["a", "nothing"]\n[inference]\nallocation = 0.4\n',
        },
        "10.toml",
        "20.toml",
    )
    assert loaded.policy.inference.allocation == 0.4
    assert [(each.name, each.training) for each in loaded.policy.rule] == [("b", 0.3), ("c", 0.0)]
    assert str(loaded.where(("rule", 0, "training"))) == "10.toml:6:1"
    assert [(removal.rule, removal.found) for removal in loaded.merged.removals] == [("a", True), ("nothing", False)]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"a.toml": f'include = ["b.toml"]\n{HEAD}', "b.toml": '# b\ninclude = ["./a.toml"]\n'},
            r"^b.toml:2:12: a file includes itself: a.toml includes b.toml includes a.toml",
        ),
        (
            {"a.toml": f'include = ["b.toml"]\n{HEAD}', "b.toml": 'include = [\n  "no.toml"]\n'},
            r"^b.toml:2:3: 'no.toml' cannot be included: no.toml: cannot be read: No such file or directory "
            r"\(a.toml includes b.toml includes no.toml\)",
        ),
        (
            {"a.toml": f'include = ["preset:turbo"]\n{HEAD}'},
            r"^a.toml:1:12: .*no preset policy named 'turbo'.*balanced",
        ),
        (
            {"a.toml": f'include = "preset:balanced"\n{HEAD}'},
            r"^a.toml:1:1: 'include' is 'preset:balanced', and must be",
        ),
        ({"a.toml": f"include = [3]\n{HEAD}"}, r"^a.toml:1:12: 'include' holds 3"),
        ({"a.toml": f"remove_rules = [true]\n{HEAD}"}, r"^a.toml:1:17: 'remove_rules' holds True"),
        ({"a.toml": 'include = ["preset:balanced"]\n'}, r"^a.toml:1:1: the key 'policy.name' is missing"),
        (
            {
                "a.toml": f'include = ["b.toml"]\n{HEAD}[training]\nslice_s = 5\n',
                "b.toml": "[training]\nslice_s = -1\n",
            },
            r"^b.toml:2:1: 'training.slice_s' is -1",
        ),
        (
            {"a.toml": f'include = ["b.toml"]\n{HEAD}', "b.toml": "[training]\n  slice = 1\n"},
            r"^b.toml:2:3: unknown key 'training.slice'.*slice_s",
        ),
        (
            {
                "a.toml": f'include = ["b.toml"]\n{HEAD}[inference]\nmax_resolution = 96\n',
                "b.toml": "[inference]\nmin_resolution = 128\n",
            },
            r"^b.toml:2:1: 'inference.min_resolution': min_resolution 128 is above max_resolution 96",
        ),
        ({"a.toml": f'include = ["b.toml"]\n{HEAD}', "b.toml": "[training\n"}, r"^b.toml:1:10: this is not TOML"),
        (
            {"a.toml": f'include = ["b.toml"]\n{HEAD}', "b.toml": rule("r") * 2},
            r"^b.toml:6:1: .*two rules are named 'r'",
        ),
    ],
)
def test_each_mistake_names_the_file_it_is_in(files: dict[str, str], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        load(files)


def test_files_that_include_each_other_in_ever_new_ways_end_in_one_sentence() -> None:
    files = {f"{n}.toml": f'include = ["{n + 1}.toml", "./{n + 1}.toml"]\n' for n in range(20)}
    files |= {"20.toml": "", "0.toml": files["0.toml"] + HEAD}
    with pytest.raises(PolicyError, match="64 files and more are included"):
        load(files)


NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
TABLES = st.fixed_dictionaries(
    {},
    optional={
        "inference": st.fixed_dictionaries({}, optional={"allocation": NUMBERS, "raise_after_s": NUMBERS}),
        "training": st.fixed_dictionaries({}, optional={"allocation": NUMBERS, "only_on_mains": st.booleans()}),
        "examples": st.fixed_dictionaries({}, optional={"consent": st.booleans()}),
    },
)
RULES = st.dictionaries(st.sampled_from(["a", 'b "c"', "\u00e9\n", "d"]), NUMBERS, max_size=3)
LAYERS = st.lists(st.tuples(TABLES, RULES, st.sets(st.sampled_from(["a", "d"]))), min_size=1, max_size=4)


def layer(index: int, tables: dict[str, Any], rules: dict[str, float], removed: set[str]) -> Layer:
    """A layer of a text that spells the keys out."""
    found = read_layer(f"{index}.toml", f"remove_rules = {sorted(removed)}\n")
    when = [{"signal": "cpu.busy", "above": 0.5}]
    made: dict[str, Any] = {**tables}
    if index == 0:
        made["policy"] = {"name": "x"}
    if rules:
        made["rule"] = [{"name": name, "when": when, "training": value} for name, value in rules.items()]
    return Layer(found.file, found.text, made, {}, (), found.remove_rules)


@given(LAYERS)
@settings(max_examples=60)
def test_the_last_file_that_names_a_key_or_rule_decides(given_layers: list[Any]) -> None:
    merged = merge(tuple(layer(index, *each) for index, each in enumerate(given_layers)))
    tables: dict[tuple[str, str], object] = {}
    rules: dict[str, float] = {}
    for given_tables, given_rules, removed in given_layers:
        rules = {name: value for name, value in rules.items() if name not in removed}
        for table, keys in given_tables.items():
            tables |= {(table, key): value for key, value in keys.items()}
        for name, value in given_rules.items():
            rules[name] = value
    found = {(t, k): v for t, keys in merged.data.items() if t not in ("rule", "policy") for k, v in keys.items()}
    assert found == tables
    assert {each["name"]: each["training"] for each in merged.data.get("rule", ())} == rules


@given(LAYERS)
@settings(max_examples=60)
def test_the_effective_text_is_a_policy_file_that_means_the_same(given_layers: list[Any]) -> None:
    merged = merge(tuple(layer(index, *each) for index, each in enumerate(given_layers)))
    text = effective_text(merged)
    assert {key: value for key, value in tomllib.loads(text).items() if value} == {
        key: value for key, value in merged.data.items() if value
    }
    assert {rule.name: rule.training for rule in parse_policy(text, "again").rule} == {
        each["name"]: each["training"] for each in merged.data.get("rule", ())
    }


@pytest.mark.parametrize("name", preset_names())
def test_the_effective_text_of_a_preset_tells_the_line_of_every_key(name: str) -> None:
    text = f'include = ["preset:{name}"]\n{HEAD}[training]\nmax_celsius = 70\n'
    loaded = load({"mine.toml": text})
    said = effective_text(loaded.merged)
    assert parse_policy(said, "again") == loaded.policy
    lines = preset_text(name).split("\n")
    for line in said.splitlines():
        key, found, origin = line.partition(f"  # preset:{name}:")
        if found:
            assert key.strip().rstrip(",").split(" =")[0].strip("{ ") in lines[int(origin) - 1]
    assert "max_celsius = 70  # mine.toml:5" in said


def test_the_schema_takes_a_file_that_is_no_whole_policy() -> None:
    schema = policy_json_schema()
    assert "policy" not in schema.get("required", [])
    assert schema["additionalProperties"] is False
    assert {"include", "remove_rules"} <= set(schema["properties"])
