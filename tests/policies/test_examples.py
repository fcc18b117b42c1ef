"""Which part an example goes to, how often it is shown, and when there are enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.examples import (
    EPOCH_SHARE,
    MOST_REPEATS,
    ExampleFile,
    ExamplePart,
    enough_alone,
    part_of_next,
    repeats,
)


def example(number: int, label: str, part: ExamplePart) -> ExampleFile:
    return ExampleFile(id=f"ex-{number}", task="pets", path=f"/{number}", label=label, part=part)


@given(st.integers(2, 500))
def test_both_parts_have_an_example_from_the_second_on_and_validation_keeps_its_share(count: int) -> None:
    parts = {"train": 0, "validation": 0}
    for _ in range(count):
        parts[part_of_next(parts["train"], parts["validation"])] += 1
    assert min(parts.values()) >= 1
    assert parts["validation"] == max(1, round(0.15 * count))


@given(st.integers(0, 100_000), st.integers(0, 5_000))
def test_examples_are_repeated_until_they_are_a_quarter_of_an_epoch_or_often_enough(own: int, examples: int) -> None:
    times = repeats(own, examples)
    assert 1 <= times <= MOST_REPEATS
    if own and examples and times < MOST_REPEATS:
        assert times * examples / (own + times * examples) >= EPOCH_SHARE - 1e-9
        if times > 1:
            assert (times - 1) * examples / (own + (times - 1) * examples) < EPOCH_SHARE


def test_two_classes_with_both_parts_are_enough_without_a_data_set() -> None:
    cats = [example(1, "cat", "train"), example(2, "cat", "validation")]
    assert not enough_alone(cats)
    assert not enough_alone([*cats, example(3, "dog", "train"), example(4, "emu", "validation")])
    assert enough_alone([*cats, example(3, "dog", "train"), example(4, "dog", "validation")])
