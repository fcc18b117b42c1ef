"""The tables of a policy file that say what holds while no rule matches, and when tasks are trained again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from .policy_mistakes import MistakeAtError
from .snapshot import Frozen
from .task import Name, PatchKind, Side, check_kinds
from .windows import WeeklyTime, Window, parse_weekly_time, parse_window, windows_of

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
    rise_per_s: Number = Field(0.05, gt=0, le=1, description="most that the allocation rises by, for each second")
    feedback: bool = Field(
        False, strict=True, description="true: rungs cost what predictions take now, where other work slows them"
    )
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
            raise MistakeAtError(f"min_resolution {low} is above max_resolution {high}", "min_resolution")
        return self


class Training(Frozen):
    """The `[training]` table."""

    allocation: Number = Field(
        0.5, ge=0, le=1, description="share of a full fine-tuning step, when no rule restricts it"
    )
    max_fraction: Number = Field(0.0, ge=0, le=1, description="at most this share of the base is unfrozen")
    raise_after_s: Number = Field(10.0, ge=0)
    rise_per_s: Number = Field(0.05, gt=0, le=1)
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
