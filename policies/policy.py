"""The policy file: TOML, checked in full, every error naming file, line and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from .added_signals import NAME_RULE, claims_to_be_added
from .errors import PolicyError
from .signals import SIGNALS, signal_spec
from .snapshot import Frozen
from .task import Name, PatchKind, Side, check_kinds
from .toml_source import line_of
from .windows import WeeklyTime, Window, parse_weekly_time, parse_window, windows_of

DEFAULT_BAND = 0.1  # a missing leave threshold lies this share of the enter threshold away


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # true and "0.5" are no numbers


def _window(text: str) -> str:
    parse_window(text)
    return text


WindowText = Annotated[str, AfterValidator(_window)]


class Head(Frozen):
    """The `[policy]` table."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    description: str = ""


class Inference(Frozen):
    """The `[inference]` table."""

    allocation: Number = Field(1.0, ge=0, le=1, description="when no rule restricts it")
    min_resolution: int | None = Field(None, ge=32, description="pixels; rungs below are not used")
    max_resolution: int | None = Field(None, ge=32, description="pixels; rungs above are not used")
    raise_after_s: Number = Field(10.0, ge=0, description="seconds an allocation must be allowed before it rises")
    keep_alive_s: Number = Field(300.0, gt=0, description="seconds of idleness before the worker is unloaded")
    unload_memory_below: Number = Field(
        0.05, ge=0, le=1, description="share of memory available below which an idle worker is unloaded at once"
    )
    batch_delay_ms: Number = Field(
        0.0, ge=0, le=1000, description="how long a prediction may wait for others to share a batch with"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Inference:
        low, high = self.min_resolution, self.max_resolution
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_resolution {low} is above max_resolution {high}")
        return self


class Training(Frozen):
    """The `[training]` table."""

    allocation: Number = Field(
        0.5, ge=0, le=1, description="share of a full fine-tuning step, when no rule restricts it"
    )
    max_fraction: Number = Field(0.0, ge=0, le=1, description="at most this share of the base is unfrozen")
    raise_after_s: Number = Field(10.0, ge=0)
    slice_s: Number = Field(20.0, gt=0, le=3600, description="seconds of a training slice")
    order: Literal["auto", "patch_first", "downwards", "sparse"] = Field(
        "auto", description="in which order a larger allocation lets more of a network train"
    )
    memory_share: Number = Field(
        0.5, ge=0, le=1, description="share of the available memory that the training worker may take"
    )
    memory_bytes: Number | None = Field(None, ge=0, description="at most so much for a step, beside the base in memory")
    features_bytes: Number = Field(
        1_000_000_000.0, ge=0, description="at most so much of the disk for features of the frozen part; 0: none"
    )
    windows: tuple[WindowText, ...] = Field(
        (), description="local times at which training may run, such as '01:00-05:00' or 'mon-fri 22:00-06:00'"
    )
    only_on_mains: bool = Field(False, strict=True, description="training waits while the device is on battery")
    idle_for_s: Number = Field(
        0.0, ge=0, le=604_800, description="seconds since the device was last used, before training runs; 0 is any"
    )
    max_minutes_per_day: Number | None = Field(
        None, gt=0, le=100_000, description="processor minutes that training may use in a local day"
    )
    max_celsius: Number | None = Field(
        None, ge=0, le=150, description="training waits while the hottest sensor is above this"
    )

    @property
    def parsed_windows(self) -> tuple[Window, ...]:
        """The windows as spans of the wall clock."""
        return windows_of(self.windows)


class Cascades(Frozen):
    """The `[cascade]` table."""

    enabled: bool = Field(True, strict=True, description="false: one rung answers each prediction, by the decision")
    epsilon: Number = Field(
        0.01, gt=0, lt=0.5, description="share of inputs that a cascade may lose at most against its reference"
    )
    delta: Number = Field(0.05, gt=0, lt=0.5, description="probability that a promise of epsilon is given wrongly")
    audit_share: Number = Field(
        0.01, ge=0, le=1, description="share of the answers that the reference answers again in idle time; 0 is none"
    )
    shorten: bool = Field(True, strict=True, description="a low inference allocation cuts cascades from their dear end")
    false_alarm_every: Number = Field(
        1_000_000,
        ge=100,
        description="audited answers between two false alarms of the drift test, on average, at least",
    )


class Examples(Frozen):
    """The `[examples]` table: whether applications may hand over labelled images to learn from."""

    consent: bool = Field(
        False, strict=True, description="true: applications may hand over examples, and training may use them"
    )
    most_images: int = Field(1000, strict=True, ge=1, le=1_000_000, description="examples of a task that are kept")
    most_bytes: int = Field(
        256 * 1024 * 1024, strict=True, ge=1024, description="size of a task's examples that are kept, together"
    )
    when_full: Literal["refuse", "drop_oldest"] = Field(
        "refuse", description="what happens to an example for which there is no place"
    )
    keep_days: Number = Field(90.0, gt=0, le=3650, description="days after which an example is deleted")
    train_after: int = Field(
        0, strict=True, ge=0, description="new examples of a task after which it is trained by itself; 0: never"
    )


class Condition(Frozen):
    """One condition on a signal: `above`, `below` (each with a leave threshold) or `is`."""

    signal: str
    above: Number | None = None
    leave_below: Number | None = None
    below: Number | None = None
    leave_above: Number | None = None
    equals: bool | None = Field(None, alias="is")
    for_s: Number = Field(0.0, ge=0, description="seconds it must hold before the condition is entered")
    leave_for_s: Number = Field(0.0, ge=0, description="seconds the leave threshold must be passed before it is left")

    @model_validator(mode="after")
    def _consistent(self) -> Condition:
        spec = signal_spec(self.signal)
        if spec is None and claims_to_be_added(self.signal):
            raise ValueError(f"'{self.signal}' is no name of an added signal: {NAME_RULE}")
        if spec is None:
            near = difflib.get_close_matches(self.signal, SIGNALS, 1)
            raise ValueError(f"unknown signal '{self.signal}'" + (f", did you mean '{near[0]}'?" if near else ""))
        given = [self.above is not None, self.below is not None, self.equals is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of above, below and is")
        thresholds = (self.above, self.below, self.leave_below, self.leave_above)
        if spec.unit == "share" and any(v is not None and not 0 <= v <= 1 for v in thresholds):
            raise ValueError(f"{self.signal} is a share from 0 to 1; write 0.2 for 20 %")
        if self.leave_below is not None and (self.above is None or self.leave_below > self.above):
            raise ValueError("leave_below goes with above and lies at or below it")
        if self.leave_above is not None and (self.below is None or self.leave_above < self.below):
            raise ValueError("leave_above goes with below and lies at or above it")
        return self

    @property
    def enter(self) -> float:
        """The threshold that enters the condition."""
        return next(v for v in (self.above, self.below, 0.5) if v is not None)

    @property
    def leave(self) -> float:
        """The threshold that leaves it; by default a tenth of the enter threshold away."""
        if self.above is not None:
            leave = self.above - DEFAULT_BAND * abs(self.above) if self.leave_below is None else self.leave_below
        elif self.below is not None:
            leave = self.below + DEFAULT_BAND * abs(self.below) if self.leave_above is None else self.leave_above
        else:
            return 0.5
        # A share never passes 1: a threshold beyond it could not be left again.
        spec = SIGNALS.get(self.signal)
        return min(1.0, leave) if spec is not None and spec.unit == "share" else leave


class Rule(Frozen):
    """One `[[rule]]`: while all its conditions hold, the allocations are at most these."""

    name: str = Field(min_length=1)
    when: tuple[Condition, ...] = Field(min_length=1)
    inference: Number | None = Field(None, ge=0, le=1)
    training: Number | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _useful(self) -> Rule:
        if self.inference is None and self.training is None:
            raise ValueError("give at least one of inference and training")
        return self


class Retrain(Frozen):
    """One `[[retrain]]`: a task that is trained again and again, on what data it has by then."""

    task: Name
    at: str | None = Field(None, description="local time of the week, such as '03:00' or 'sun 03:00'")
    every_days: Number | None = Field(None, gt=0, le=3650, description="days after the task's last job")
    base: str | None = Field(None, description="one of the task's bases; absent: its own")
    kinds: tuple[PatchKind, ...] = Field((PatchKind.SCALE_BIAS, PatchKind.HEAD), min_length=1)
    resolutions: tuple[Side, ...] = Field((), description="empty: all rungs of that base")
    epochs: int = Field(4, strict=True, ge=1, le=1000)

    @field_validator("at")
    @classmethod
    def _readable(cls, at: str | None) -> str | None:
        if at is not None:
            parse_weekly_time(at)
        return at

    @field_validator("kinds")
    @classmethod
    def _trainable(cls, kinds: tuple[PatchKind, ...]) -> tuple[PatchKind, ...]:
        if PatchKind.BASE_FRACTION in kinds:
            raise ValueError("base_fraction cannot be asked for: the training allocation decides what is unfrozen")
        check_kinds(kinds, {})
        return kinds

    @model_validator(mode="after")
    def _timed(self) -> Retrain:
        if (self.at is None) == (self.every_days is None):
            raise ValueError("give exactly one of at and every_days")
        return self

    @property
    def weekly(self) -> WeeklyTime | None:
        """The time of the week, where one is given."""
        return None if self.at is None else parse_weekly_time(self.at)


class Policy(Frozen):
    """A whole policy file."""

    policy: Head
    inference: Inference = Inference()
    training: Training = Training()
    cascade: Cascades = Cascades()
    examples: Examples = Examples()
    rule: tuple[Rule, ...] = ()
    retrain: tuple[Retrain, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Policy:
        names = [rule.name for rule in self.rule]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules are named '{twice}'")
        trained = [(each.task, each.base) for each in self.retrain]
        again = next((task for task, base in trained if trained.count((task, base)) > 1), None)
        if again is not None:
            raise ValueError(f"task '{again}' stands in two [[retrain]] tables for one base")
        return self


def parse_policy(text: str, file: str) -> Policy:
    """Check a policy file's text. Raises PolicyError naming file, line, key and what to do."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"line (\d+)", str(error))
        line = int(found.group(1)) if found else max(1, text.count("\n"))
        raise PolicyError(f"{file}:{line}: this is not TOML: {error}.") from error
    except ValidationError as error:
        raise _explain(error, text, file) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, tables nested thousands deep
        raise PolicyError(f"{file}:1: this TOML cannot be read: {error}.") from error


def policy_json_schema() -> dict[str, Any]:
    """The JSON Schema of a policy file, for editors."""
    return Policy.model_json_schema()


_MODELS: dict[str, type[Frozen]] = {
    "": Policy,
    "policy": Head,
    "inference": Inference,
    "training": Training,
    "cascade": Cascades,
    "examples": Examples,
    "rule": Rule,
    "when": Condition,
    "retrain": Retrain,
}


def _explain(error: ValidationError, text: str, file: str) -> PolicyError:
    problems = error.errors(include_url=False)
    first, more = problems[0], len(problems) - 1
    path = tuple(first["loc"])
    where = f"{file}:{line_of(text, path)}"
    key = ".".join(str(part) for part in path) or "policy"
    hint = None
    if first["type"] == "extra_forbidden":
        parent = next((part for part in reversed(path[:-1]) if isinstance(part, str)), "")
        known = [field.alias or name for name, field in _MODELS[parent].model_fields.items()]
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        sentence = f"{where}: unknown key '{key}'"
        hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}."
    elif first["type"] == "missing":
        sentence = f"{where}: the key '{key}' is missing"
    elif first["type"] == "value_error":
        sentence = f"{where}: '{key}': {first['ctx']['error']}"
    else:
        sentence = f"{where}: '{key}' is {first['input']!r}: {first['msg']}"
    sentence += f" (and {more} more)." if more else "."
    return PolicyError(sentence, hint=hint)
