"""Whether a new patch takes the place of what is in force: better on the same images, or as good and smaller.

*Better* is strictly more right answers. Of two that are equal the one with fewer parameters is in force: it costs less
to keep and to swap. A patch without a validation score takes no other's place.
"""

from __future__ import annotations

from pydantic import Field

from .snapshot import Frozen
from .task import Evaluation, Measure, PatchMetadata


class Standing(Frozen):
    """What is in force at a rung, as far as a newcomer is compared with it."""

    patch_id: str | None = Field(None, description="absent: the base as it is")
    validation: float | None = Field(None, description="as its own record has it")
    digest: str = Field("", description="of the validation images that figure is of")
    parameters: int = 0


class Verdict(Frozen):
    """Whether the newcomer takes the place, and why in words."""

    better: bool
    note: str


def judged(
    patch_id: str,
    new: PatchMetadata,
    standing: Standing | None,
    rival: Evaluation | None = None,
    rival_id: str | None = None,
) -> Verdict:
    """The verdict on patch `new`. `rival` is what `rival_id` scored beside it, on the same images, where that was done.

    Without such a score the recorded figures are compared, and the note says so where they are of other images.
    """
    if standing is None:
        return Verdict(better=True, note="in force, the first of its rung.")
    if standing.patch_id == patch_id:
        return Verdict(better=True, note="in force already.")
    record = new.training
    if record is None:
        return Verdict(better=False, note="stored; it has no validation accuracy to compare with the one in force.")
    beside = rival is not None and rival_id == standing.patch_id
    agrees = record.validation.measure is Measure.AGREEMENT
    if agrees and not beside:
        return Verdict(better=False, note="stored; how well what is in force agrees on the same images is not known.")
    measured = "agreement with the teacher" if agrees else "validation accuracy"
    old = rival.accuracy if rival is not None and beside else standing.validation
    if old is None:
        return Verdict(better=True, note=f"in force; {measured} {record.validation.accuracy:.3f} against unknown.")
    same = beside or (standing.digest != "" and standing.digest == record.validation_digest)
    against = f"{measured} {record.validation.accuracy:.3f} against {old:.3f}" + ("" if same else ", of other images")
    if record.validation.accuracy > old:
        return Verdict(better=True, note=f"in force; {against}.")
    if record.validation.accuracy == old and new.parameters < standing.parameters:
        return Verdict(better=True, note=f"in force; {against}, with fewer parameters.")
    return Verdict(better=False, note=f"stored, not in force; {against}.")
