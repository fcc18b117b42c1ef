"""Bodies of the routes of examples and corrections."""

from __future__ import annotations

from typing import Literal

from pydantic import Base64Bytes, Field, model_validator

from ...policies.examples import ExamplePart
from ...policies.snapshot import Frozen

Source = Literal["example", "correction"]


class ExampleCreate(Frozen):
    """JSON form of an example; images go faster as `image/jpeg` or `image/png` bodies with `?label=`."""

    label: str
    image: Base64Bytes = Field(description="an encoded image, in base64")


class CorrectionCreate(Frozen):
    """What was really to be seen: in the image of an earlier prediction, or in one that comes along."""

    label: str
    request: str | None = Field(None, description="request id of a prediction whose image is still remembered")
    image: Base64Bytes | None = Field(None, description="an encoded image, in base64")

    @model_validator(mode="after")
    def _one_image(self) -> CorrectionCreate:
        if (self.request is None) == (self.image is None):
            raise ValueError("A correction gives either the request id of a prediction or an image.")
        return self


class ExampleView(Frozen):
    """What is known of an example; its image has a route of its own."""

    id: str
    task: str
    label: str
    bytes: int
    source: Source
    part: ExamplePart = Field(description="train: learned from; validation: decides what is published")
    added_s: float
    expires_s: float


class ExampleList(Frozen):
    """The examples of a task that the caller may see, oldest first, and how full the task's quota is."""

    task: str
    examples: tuple[ExampleView, ...]
    used: bool = Field(description="whether training may use them now: the policy in force gives consent")
    images: int = Field(description="of all users")
    bytes: int = Field(description="of all users")
    most_images: int
    most_bytes: int


class ExamplesDeleted(Frozen):
    """How many examples were deleted, and which stored patches have learned from examples of the task."""

    task: str
    deleted: int
    patches: tuple[str, ...] = Field(
        (), description="patches of the task trained with examples, perhaps these: a patch does not unlearn"
    )


class ExampleSummary(Frozen):
    """All examples at a glance."""

    consent: bool = Field(
        False, description="whether the policy lets applications hand them over and training use them"
    )
    images: int = 0
    bytes: int = 0
