"""Tasks, their patches and the ladders that follow from patches in force and measured costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from ..policies.base_version import sides_on
from ..policies.cascade import Price
from ..policies.decision import Ladder, Rung
from ..policies.errors import BadInputError, ConflictError, NotFoundError, StateError
from ..policies.labels import imagenet_labels
from ..policies.publishing import Standing, judged
from ..policies.task import BaseRungs, Evaluation, PatchMetadata, RungResult, TaskSpec
from .api.schemas import CostView, PatchView, RungRollback, TaskCreate
from .data_labels import labels_of
from .events import EventLog
from .rungs_in_force import RungsInForce, answers_bare
from .store import Store
from .workers.protocol import InForce, RungRef

BASES = ("lite0", "lite1", "lite2")
IMAGENET_RESOLUTIONS = (224, 192, 160, 128, 96)
IMAGENET_OTHERS = (BaseRungs(base="lite1", resolutions=(240,)), BaseRungs(base="lite2", resolutions=(260,)))
STRAY_AGE_S = 3600  # a file younger than this may belong to a patch about to be registered


class TaskService:
    """Owns the tables of tasks, patches, rungs and costs, and keeps what it read from them in memory."""

    def __init__(self, store: Store, events: EventLog) -> None:
        self._store, self._events = store, events
        self._in_force = RungsInForce(store)
        self._tasks = {spec.name: (spec, created_s) for spec, created_s in store.tasks()}
        self._costs = {(cost.base, cost.resolution): cost for cost in store.costs()}
        self._pools: dict[str, tuple[Rung, ...]] = {}
        self._ladders: dict[str, Ladder] = {}  # of each task's own base
        self._by_base: dict[str, dict[str, Ladder]] = {}
        built_in = TaskSpec(
            name="imagenet",
            labels=imagenet_labels(),
            resolutions=IMAGENET_RESOLUTIONS,
            others=IMAGENET_OTHERS,
            builtin=True,
        )
        stored = self._tasks.get(built_in.name)
        if stored is None or stored[0] != built_in:  # none yet, or that of an older version
            self._put(built_in, time.time() if stored is None else stored[1])
        self._rebuild()

    # tasks

    @property
    def tasks(self) -> dict[str, tuple[TaskSpec, float]]:
        """All tasks by name, with the time they were added."""
        return dict(self._tasks)

    @property
    def ladders(self) -> dict[str, Ladder]:
        """The ladder of each task that can answer: the rungs of its own base, among which allocations decide."""
        return self._ladders

    def pool(self, task: str) -> tuple[Rung, ...]:
        """All rungs of a task that can answer, with cost and accuracy where measured; its own base's come first.

        Raises NotFoundError for an unknown task.
        """
        return self._pools[self.task(task).name]

    def ladder(self, task: str, base: str | None = None) -> Ladder:
        """The rungs that can answer of one base; absent, the task's own. Raises NotFoundError when there are none."""
        spec = self.task(task)
        if base is not None and base not in spec.bases:
            raise NotFoundError(
                f"Task '{task}' has no rungs of base '{base}'.", hint=f"It has rungs of {', '.join(spec.bases)}."
            )
        ladder = self._by_base[task].get(base or spec.base)
        if ladder is None:
            of, option = ("", "") if base in (None, spec.base) else (f" for base {base}", f" --base {base}")
            raise NotFoundError(
                f"Task '{task}' has no patch{of} yet.", hint=f"Train one: patchctl train submit --task {task}{option}"
            )
        return ladder

    def task(self, name: str) -> TaskSpec:
        """A task by name. Raises NotFoundError."""
        found = self._tasks.get(name)
        if found is None:
            known = ", ".join(sorted(self._tasks))
            raise NotFoundError(f"There is no task named '{name}'.", hint=f"Known tasks: {known}.")
        return found[0]

    @staticmethod
    def find_labels(request: TaskCreate) -> tuple[str, ...]:
        """The labels of a task to be: the data set's, else those given. Looks at the data set's directory.

        Raises BadInputError or DataSetError.
        """
        if request.data is None:
            if len(request.labels) < 2:
                raise BadInputError("A task needs a data set or at least two labels.", hint="Give data or labels.")
            return request.labels
        labels = labels_of(request.data)
        if request.labels and request.labels != labels:
            raise BadInputError(
                f"The labels given differ from those of the data set {request.data}: {', '.join(labels)}.",
                hint="Leave the labels out, or give them in this order.",
            )
        return labels

    def create(self, request: TaskCreate, labels: tuple[str, ...]) -> TaskSpec:
        """Add a task with the labels that `find_labels` found. Raises ConflictError or BadInputError."""
        if request.name in self._tasks:
            raise ConflictError(f"A task named '{request.name}' exists already.", hint="Choose another name.")
        for base in (request.base, *(other.base for other in request.others)):
            self.check_base(base)
        data = request.data
        if data is not None and not data.startswith("sklearn:"):
            data = str(Path(data).absolute())
        spec = TaskSpec(
            name=request.name,
            base=request.base,
            labels=labels,
            resolutions=_descending(request.resolutions),
            others=tuple(
                BaseRungs(base=other.base, resolutions=_descending(other.resolutions)) for other in request.others
            ),
            data=data,
            preprocessing=request.preprocessing,
            augmentation=tuple(dict.fromkeys(request.augmentation)),
        )
        self._put(spec, time.time())
        self._rebuild(spec.name)
        self._events.emit("task.added", f"Task {spec.name} with {len(labels)} labels was added.", task=spec.name)
        return spec

    def check_base(self, base: str) -> None:
        """Raise BadInputError unless `base` is a packaged base or a registered version of one."""
        versions = [row["name"] for row in self._store.base_versions()]
        if base not in (*BASES, *versions):
            raise BadInputError(f"There is no base '{base}'.", hint=f"Known bases: {', '.join((*BASES, *versions))}.")

    def replace(self, spec: TaskSpec) -> None:
        """Put `spec` in place of the task of that name, which keeps its patches. Raises NotFoundError."""
        self.task(spec.name)
        self._put(spec, self._tasks[spec.name][1])
        self._rebuild(spec.name)

    def remove(self, name: str) -> None:
        """Remove a task. Its patches stay and can be exported. Raises NotFoundError or ConflictError."""
        if self.task(name).builtin:
            raise ConflictError(f"The task '{name}' is built in and cannot be removed.")
        self._store.delete_task(name)
        del self._tasks[name]
        for known in (self._ladders, self._by_base, self._pools):
            known.pop(name, None)
        self._events.emit("task.removed", f"Task {name} was removed.", task=name)

    def _put(self, spec: TaskSpec, created_s: float) -> None:
        self._store.put_task(spec, created_s)
        self._tasks[spec.name] = (spec, created_s)

    # patches

    def patches(self, task: str | None = None) -> tuple[PatchView, ...]:
        """Stored patches, oldest first."""
        return self._views(self._store.patches(task))

    def _views(self, rows: Sequence[dict[str, Any]]) -> tuple[PatchView, ...]:
        tasks = {row["task"] for row in rows}
        in_force = {rung.patch_id for name in tasks & self._pools.keys() for rung in self._pools[name]}
        return tuple(
            PatchView(id=row["id"], bytes=row["bytes"], in_force=row["id"] in in_force, metadata=row["metadata"])
            for row in rows
        )

    def patch(self, patch_id: str) -> PatchView:
        """A patch by id or by a unique prefix of at least four characters. Raises NotFoundError or ConflictError."""
        found = self._views(self._store.patches_starting(patch_id)) if len(patch_id) >= 4 else ()
        if not found:
            raise NotFoundError(
                f"There is no patch '{patch_id}'.", hint="`patchctl patch list` shows them; four characters suffice."
            )
        if len(found) > 1:
            raise ConflictError(f"'{patch_id}' fits {len(found)} patches.", hint="Give more characters.")
        return found[0]

    def check_fits(self, metadata: PatchMetadata) -> TaskSpec:
        """The task a patch is for. Raises NotFoundError, or BadInputError when the patch does not fit it."""
        spec = self.task(metadata.task)
        sides = sides_on(spec, metadata.base)
        if metadata.labels != spec.labels or not sides:
            bases = f"base{'s' if spec.others else ''} {', '.join(spec.bases)}"
            raise BadInputError(
                f"The patch was made for base {metadata.base} and {len(metadata.labels)} labels; "
                f"task '{spec.name}' has {bases} and {len(spec.labels)} labels, or other ones.",
                hint="Add a task with the patch's own base and labels first.",
            )
        self.check_base(metadata.base)
        if metadata.resolution not in sides:
            raise BadInputError(
                f"The patch is for {metadata.base} at {metadata.resolution} px, which is no rung of task "
                f"'{spec.name}' (it has {', '.join(map(str, sides))} px)."
            )
        return spec

    def add_patch(self, patch_id: str, size: int, metadata: PatchMetadata) -> tuple[bool, str]:
        """Register a patch file; put it in force where it is better on validation data than the one before.

        One for another version of the task's base is in force once the task moves there. Returns whether it is in
        force now, and why. Raises BadInputError when it does not fit its task.
        """
        return self._add(patch_id, size, metadata, None, None)

    def take_result(self, result: RungResult, metadata: PatchMetadata) -> RungResult:
        """Register what a training job made; the result comes back with whether it is in force."""
        published, note = self._add(result.patch_id, result.bytes, metadata, result.rival, result.rival_id)
        return result.model_copy(update={"published": published, "note": note})

    def _add(
        self, patch_id: str, size: int, metadata: PatchMetadata, rival: Evaluation | None, rival_id: str | None
    ) -> tuple[bool, str]:
        spec = self.check_fits(metadata)
        standing = self._in_force.standing(spec, metadata.base, metadata.resolution)
        verdict = judged(patch_id, metadata, standing, rival, rival_id)
        in_force, note = verdict.better and metadata.base in spec.bases, verdict.note
        if verdict.better and not in_force:
            note = f"in force once the task moves: patchctl task move {spec.name} --to {metadata.base}"
        with self._store.transaction():
            self._store.put_patch(patch_id, size, metadata)
            if verdict.better and (standing is None or standing.patch_id != patch_id):
                self._in_force.put(spec.name, patch_id, metadata)
        self._rebuild(spec.name)
        self._events.emit(
            "patch.published" if in_force else "patch.stored",
            f"Patch {patch_id[:12]} of task {spec.name} for {metadata.base} at {metadata.resolution} px: {note}",
            task=spec.name,
            patch=patch_id,
            base=metadata.base,
            resolution=metadata.resolution,
        )
        return in_force, note

    def in_force(self, task: str, base: str) -> tuple[InForce, ...]:
        """What answers at each rung of `base`, as the training worker is told."""
        return self._in_force.told(self.task(task), base)

    def standing(self, task: str, base: str, resolution: int) -> Standing | None:
        """What is in force at a rung of any version; None where nothing is. Raises NotFoundError."""
        return self._in_force.standing(self.task(task), base, resolution)

    def roll_back(self, task: str, base: str | None, resolution: int | None) -> tuple[RungRollback, ...]:
        """Put what was in force before in force again, at one rung or at all of a base; absent, the task's own.

        Raises NotFoundError for an unknown rung, ConflictError where there is nothing to go back to.
        """
        spec = self.task(task)
        steps = self._in_force.roll_back(spec, base or spec.base, resolution)
        self._rebuild(task)
        for step in steps:
            now = "the base as it is" if step.patch_id is None else f"patch {step.patch_id[:12]}"
            out = "" if step.taken_back is None else f", with patch {step.taken_back[:12]} no longer"
            self._events.emit(
                "patch.rolled_back",
                f"Task {task} answers with {now} again at {step.resolution} px on {step.base}{out}.",
                task=task,
                patch=step.patch_id,
                base=step.base,
                resolution=step.resolution,
            )
        return steps

    def remove_patch(self, patch_id: str) -> str:
        """Remove a patch, its rung and its file; the id in full comes back."""
        found = self.patch(patch_id)
        full = found.id
        with self._store.transaction():
            self._store.delete_rungs_of_patch(full)
            self._store.delete_patch(full)
        self._store.patch_file(full).unlink(missing_ok=True)
        self._rebuild(found.metadata.task)
        self._events.emit("patch.removed", f"Patch {full[:12]} was removed.", patch=full)
        return full

    def known_files(self) -> frozenset[str]:
        """The sha256 of the files of all registered patches and base versions."""
        versions = frozenset(row["sha256"] for row in self._store.base_versions())
        return versions | frozenset(row["id"] for row in self._store.patches())

    def remove_strays(self, known: frozenset[str]) -> int:
        """Remove files of patches and base versions that are not `known` and older than an hour; how many that were.

        Touches files only, so that it may run in a thread of its own.
        """
        removed = 0
        for path in chain(self._store.patches_dir.iterdir(), self._store.bases_dir.iterdir()):
            if path.stem not in known and path.stat().st_mtime < time.time() - STRAY_AGE_S:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    # ladders and costs

    @property
    def costs(self) -> tuple[CostView, ...]:
        """All measured costs."""
        return tuple(sorted(self._costs.values(), key=lambda cost: (cost.base, cost.resolution)))

    def cost(self, base: str, resolution: int) -> CostView | None:
        """The measured cost of one image at a resolution of a base."""
        return self._costs.get((base, resolution))

    def put_costs(self, costs: tuple[CostView, ...]) -> None:
        """Price the ladders anew with measured costs, and store them; those not stored are measured again one day."""
        self._costs.update({(cost.base, cost.resolution): cost for cost in costs})
        self._rebuild()
        try:
            with self._store.transaction():
                for cost in costs:
                    self._store.put_cost(cost)
        except StateError as error:
            self._events.emit("state.unwritable", f"Measured costs are not kept: {error}", level="error")

    def prices(self, task: str) -> tuple[Price, ...]:
        """The measured costs of a task's rungs, those of other bases included."""
        costs = [self._costs.get((base, side)) for base, sides in self.task(task).bases.items() for side in sides]
        return tuple(
            Price(
                base=cost.base,
                resolution=cost.resolution,
                prepare_ms=cost.prepare_ms,
                network_ms=max(0.0, cost.median_ms - cost.prepare_ms),
            )
            for cost in costs
            if cost is not None
        )

    def unmeasured(self, base: str, engine: str | None, wanted: Iterable[int]) -> tuple[int, ...]:
        """Those of the `wanted` resolutions whose cost on this engine is not known."""
        costs = {side: self._costs.get((base, side)) for side in wanted}
        return tuple(sorted(side for side, cost in costs.items() if cost is None or cost.engine != engine))

    def sides(self, base: str) -> tuple[int, ...]:
        """Resolutions, in pixels, that some task may run this base at; ascending."""
        return tuple(sorted({side for spec, _ in self._tasks.values() for side in spec.bases.get(base, ())}))

    def rung_ref(self, task: str, resolution: int, base: str | None = None) -> RungRef:
        """What the inference worker needs to run a rung of `base`; absent, of the task's own.

        Raises NotFoundError when the task has no such rung, or none that can answer.
        """
        spec, rungs = self.task(task), self.ladder(task, base).rungs
        rung = next((rung for rung in rungs if rung.resolution == resolution), None)
        if rung is None:
            of = "" if base in (None, spec.base) else f" of {base}"
            have = ", ".join(str(rung.resolution) for rung in rungs)
            raise NotFoundError(f"Task '{task}' has no rung{of} at {resolution} px.", hint=f"Its rungs{of}: {have}.")
        return RungRef(
            task=task,
            base=rung.base,
            resolution=resolution,
            patch_file=None if rung.patch_id is None else str(self._store.patch_file(rung.patch_id)),
            patch_id=rung.patch_id,
            labels=len(spec.labels),
            preprocessing=spec.preprocessing,
        )

    def cost_ms(self, task: str, resolution: int, base: str | None = None) -> float | None:
        """What one prediction at a rung of `base` is known to cost; absent, of the task's own; None if unmeasured."""
        wanted = (base or self.task(task).base, resolution)
        return next((rung.cost_ms for rung in self.pool(task) if (rung.base, rung.resolution) == wanted), None)

    def _rebuild(self, task: str | None = None) -> None:
        """Pools and ladders anew, of all tasks or of one: a built-in task's bases as they are, and patches in force."""
        names = self._tasks.keys() if task is None else {task} & self._tasks.keys()
        in_force: dict[str, dict[tuple[str, int], Rung]] = {name: {} for name in names}
        for row in self._store.rungs(task):
            if row["task"] in in_force:
                in_force[row["task"]][row["base"], row["resolution"]] = Rung(
                    base=row["base"],
                    resolution=row["resolution"],
                    patch_id=row["patch_id"],
                    accuracy=row["accuracy"],
                    accuracy_samples=row["accuracy_samples"],
                )
        for name in names:
            spec, _ = self._tasks[name]
            pool = self._pools[name] = self._pool(spec, in_force[name])
            by_base = groupby(pool, key=lambda rung: rung.base)
            self._by_base[name] = {base: Ladder(task=name, rungs=tuple(rungs)) for base, rungs in by_base}
            if spec.base in self._by_base[name]:
                self._ladders[name] = self._by_base[name][spec.base]
            else:
                self._ladders.pop(name, None)

    def _pool(self, spec: TaskSpec, in_force: dict[tuple[str, int], Rung]) -> tuple[Rung, ...]:
        found: list[Rung] = []
        for base, sides in spec.bases.items():
            for side in sorted(sides):
                rung = in_force.get((base, side)) or (Rung(base=base, resolution=side) if answers_bare(spec) else None)
                if rung is not None:
                    cost = self._costs.get((base, side))
                    found.append(rung if cost is None else rung.model_copy(update={"cost_ms": cost.median_ms}))
        return tuple(found)


def _descending(sides: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(set(sides), reverse=True))
