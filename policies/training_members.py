"""Who takes part in a job of several tasks: each task at each resolution that it trains is a member with a patch."""

from __future__ import annotations

from collections.abc import Sequence

from .base_version import sides_on
from .errors import BadInputError
from .task import TaskSpec, TrainSpec


def members_of(tasks: Sequence[TaskSpec], spec: TrainSpec) -> tuple[tuple[str, int], ...]:
    """Task and side in pixels of every member, in the order of the tasks and of the sides.

    Without resolutions those that all tasks have; else each task takes those of them that it has. Raises BadInputError
    where a task would be left without one, or a resolution without a task.
    """
    sides = {task.name: sides_on(task, spec.base or task.base) for task in tasks}
    if not spec.resolutions:
        common = [side for side in sides[tasks[0].name] if all(side in own for own in sides.values())]
        if not common:
            raise BadInputError(
                f"The tasks {', '.join(sides)} have no resolution in common.",
                hint="Name one of each with --resolutions.",
            )
        return tuple((name, side) for name in sides for side in common)
    stranger = next((side for side in spec.resolutions if not any(side in own for own in sides.values())), None)
    if stranger is not None:
        raise BadInputError(f"None of the tasks {', '.join(sides)} has a rung at {stranger} px.")
    members = tuple(
        (name, side) for name, own in sides.items() for side in dict.fromkeys(spec.resolutions) if side in own
    )
    without = next((name for name in sides if name not in {member for member, _ in members}), None)
    if without is not None:
        raise BadInputError(
            f"Task '{without}' has no rung at {', '.join(map(str, spec.resolutions))} px.",
            hint=f"It has rungs at {', '.join(map(str, sides[without]))} px; name one of them too.",
        )
    return members
