"""Examples that applications hand over: taken with consent, kept within a quota, deleted for good."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Collection

from ..policies.errors import BadInputError, ForbiddenError, NotFoundError, StateError, TooLargeError
from ..policies.examples import ExampleFile, part_of_next
from ..policies.policy_tables import Examples
from .api.example_schemas import ExampleList, ExamplesDeleted, ExampleSummary, ExampleView, Source
from .events import EventLog
from .example_store import Example, ExampleStore
from .media_types import media_type
from .policy_service import PolicyService
from .recent_images import RecentImages
from .sockets import Caller
from .task_service import TaskService

DAY_S = 86_400.0
CheckImage = Callable[[str, bytes, str], Awaitable[None]]  # task, image, client
CheckPermitted = Callable[[str, Caller], None]


class ExampleService:
    """Owns the examples. A user sees and deletes its own; whoever administers the daemon, all."""

    def __init__(
        self,
        store: ExampleStore,
        events: EventLog,
        policies: PolicyService,
        tasks: TaskService,
        recent: RecentImages,
        check_image: CheckImage,
        check_permitted: CheckPermitted,
    ) -> None:
        """Finish what a crash left half done. `check_image` raises BadInputError for what cannot be decoded.

        `check_permitted` raises ForbiddenError where the policy's sections or rules take no examples.
        """
        self._store, self._events, self._policies, self._tasks = store, events, policies, tasks
        self._recent, self._check_image, self._check_permitted = recent, check_image, check_permitted
        self._writing = asyncio.Lock()
        self._consent = self._rules.consent
        strays = store.mend(tasks.tasks)
        if strays:
            events.emit("examples.mended", f"Removed {strays} files of examples that were not whole or were deleted.")
        self._remove_expired()

    @property
    def _rules(self) -> Examples:
        return self._policies.policy.examples

    # taking

    async def add(self, task: str, label: str, image: bytes, caller: Caller) -> ExampleView:
        """Keep an image and what it shows. The same image again gets the newer label.

        Raises ForbiddenError without consent or to an unknown caller, NotFoundError, BadInputError for an unknown
        label or what is no image, TooLargeError, or StateError when there is no place for it.
        """
        return await self._take(task, label, image, caller, "example")

    async def correct(self, task: str, label: str, request_id: str, caller: Caller, administers: bool) -> ExampleView:
        """Keep the image of an earlier prediction as an example of `label`. Raises as `add`."""
        self._check_allowed(task, label, caller)
        found = self._recent.find(request_id)
        if found is None or found.task != task or not (administers or found.uid == caller.uid):
            raise NotFoundError(
                f"The image of request '{request_id}' of task '{task}' is not remembered.",
                hint="Images are kept for ten minutes at most, in memory; send the image itself.",
            )
        return await self._take(task, label, found.image, caller, "correction")

    async def correct_image(self, task: str, label: str, image: bytes, caller: Caller) -> ExampleView:
        """Keep an image as a correction that brings its image along. Raises as `add`."""
        return await self._take(task, label, image, caller, "correction")

    async def _take(self, task: str, label: str, image: bytes, caller: Caller, source: Source) -> ExampleView:
        self._check_allowed(task, label, caller)
        if media_type(image) is None:
            raise BadInputError(
                f"The {len(image)} bytes sent are not an image.", hint="Send a JPEG, PNG, WebP or BMP file."
            )
        if len(image) > self._rules.most_bytes:
            raise TooLargeError(
                f"The image has {len(image)} bytes; all examples of a task may have {self._rules.most_bytes}.",
                hint="Send a smaller image (examples.most_bytes of the policy).",
            )
        digest = hashlib.sha256(image).hexdigest()
        await self._check_image(task, image, caller.client)
        async with self._writing:
            uid = self._check_allowed(task, label, caller)  # much may have changed while it was decoded
            before = self._store.same_image(task, uid, digest)
            now_s = time.time()
            expires_s = now_s + self._rules.keep_days * DAY_S
            if before is not None:
                again = {"label": label, "source": source, "added_s": now_s, "expires_s": expires_s}
                example = before.model_copy(update=again)
            else:
                self._make_room(task, len(image))
                own = [known.part for known in self._store.of_task(task) if known.label == label]
                example = Example(
                    id=f"ex-{secrets.token_hex(6)}",
                    task=task,
                    label=label,
                    digest=digest,
                    bytes=len(image),
                    source=source,
                    part=part_of_next(own.count("train"), own.count("validation")),
                    uid=uid,
                    added_s=now_s,
                    expires_s=expires_s,
                )
                await asyncio.to_thread(self._store.write_image, example, image)
            self._put(example, fresh=before is None)
        self._events.emit("example.added", f"Task {task} has one more {source}.", task=task)
        return self._view(example)

    def _put(self, example: Example, fresh: bool) -> None:
        try:
            self._store.put(example)
        except StateError:
            if fresh:
                self._store.path(example).unlink(missing_ok=True)
            raise

    def _check_allowed(self, task: str, label: str, caller: Caller) -> int:
        """The caller's user id, where it may hand over an example of `label`."""
        spec = self._tasks.task(task)
        if not self._rules.consent:
            raise ForbiddenError(
                f"The policy '{self._policies.state.name}' does not let applications hand over examples.",
                hint="The operator allows it with consent = true in the table [examples] of the policy.",
            )
        self._check_permitted(task, caller)
        if caller.uid is None:
            raise ForbiddenError(
                "An unknown caller may not hand over examples.", hint="Use the Unix socket, where the kernel tells who."
            )
        if label not in spec.labels:
            near = difflib.get_close_matches(label, spec.labels, 3, 0.5) or spec.labels[:10]
            more = ", ..." if len(near) < len(spec.labels) else ""
            raise BadInputError(
                f"Task '{task}' has no label '{label[:60]}'.", hint=f"Its labels: {', '.join(near)}{more}."
            )
        return caller.uid

    def _make_room(self, task: str, size: int) -> None:
        """Raise StateError where the quota has no place for `size` bytes, or delete the oldest for it."""
        rules = self._rules
        count, used = self._store.usage(task)
        oldest: list[Example] = []
        for example in self._store.of_task(task):
            if count < rules.most_images and used + size <= rules.most_bytes:
                break
            oldest.append(example)
            count, used = count - 1, used - example.bytes
        if not oldest:
            return
        if rules.when_full == "refuse":
            raise StateError(
                f"Task '{task}' has {len(oldest) + count} examples of {used + sum(e.bytes for e in oldest)} bytes; "
                f"the policy keeps {rules.most_images} of {rules.most_bytes} bytes.",
                hint="Delete some, raise examples.most_images or most_bytes, or set when_full to drop_oldest.",
            )
        self._store.remove(oldest)
        self._events.emit("examples.dropped", f"Deleted the {len(oldest)} oldest examples of task {task}.", task=task)

    # showing

    def list(self, task: str, caller: Caller, administers: bool) -> ExampleList:
        """The examples of a task that the caller may see. Raises NotFoundError for an unknown task."""
        self._tasks.task(task)
        count, used = self._store.usage(task)
        return ExampleList(
            task=task,
            examples=tuple(map(self._view, self._seen(task, caller, administers))),
            used=self._rules.consent,
            images=count,
            bytes=used,
            most_images=self._rules.most_images,
            most_bytes=self._rules.most_bytes,
        )

    async def image(self, task: str, example_id: str, caller: Caller, administers: bool) -> tuple[bytes, str]:
        """An example's image and its media type. Raises NotFoundError."""
        path = self._store.path(self._one(task, example_id, caller, administers))
        try:
            image = await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise NotFoundError(f"The image of example '{example_id}' cannot be read: {error.strerror}.") from error
        return image, media_type(image) or "application/octet-stream"

    def summary(self) -> ExampleSummary:
        """All examples at a glance."""
        count, used = self._store.usage()
        return ExampleSummary(consent=self._rules.consent, images=count, bytes=used)

    def _seen(self, task: str, caller: Caller, administers: bool) -> tuple[Example, ...]:
        own = (known for known in self._store.of_task(task) if administers or known.uid == caller.uid)
        return tuple(known for known in own if self._expires_s(known) > time.time())

    def _one(self, task: str, example_id: str, caller: Caller, administers: bool) -> Example:
        self._tasks.task(task)
        for known in self._seen(task, caller, administers):
            if known.id == example_id:
                return known
        raise NotFoundError(
            f"Task '{task}' has no example '{example_id}'.", hint=f"`patchctl examples list {task}` shows them."
        )

    def _view(self, example: Example) -> ExampleView:
        shown = example.model_dump(exclude={"digest", "uid", "expires_s"})
        return ExampleView(**shown, expires_s=self._expires_s(example))

    def _expires_s(self, example: Example) -> float:
        """Never later than said when it was handed over; earlier where the policy keeps examples less long by now."""
        return min(example.expires_s, example.added_s + self._rules.keep_days * DAY_S)

    # deleting

    async def remove(self, task: str, example_id: str, caller: Caller, administers: bool) -> ExamplesDeleted:
        """Delete an example. Raises NotFoundError or StateError."""
        async with self._writing:
            return self._deleted(task, [self._one(task, example_id, caller, administers)])

    async def remove_all(self, task: str, caller: Caller, administers: bool) -> ExamplesDeleted:
        """Delete the examples of a task that the caller may see, and its remembered images. Raises as `remove`."""
        self._tasks.task(task)
        async with self._writing:
            self._recent.forget_task(task)
            return self._deleted(task, self._seen(task, caller, administers))

    async def forget(self, task: str) -> None:
        """Delete all examples of a task that has been removed. Raises StateError."""
        async with self._writing:
            self._recent.forget_task(task)
            self._store.remove(self._store.of_task(task))

    async def clean(self) -> None:
        """Delete what has expired, and files that belong to no example."""
        self._recent.trim()
        async with self._writing:
            self._remove_expired()
            self._store.mend(self._tasks.tasks)

    def _remove_expired(self) -> None:
        expired = [known for known in self._store.all() if self._expires_s(known) <= time.time()]
        if expired:
            self._store.remove(expired)
            self._events.emit("examples.expired", f"Deleted {len(expired)} examples whose time was over.")

    def _deleted(self, task: str, examples: Collection[Example]) -> ExamplesDeleted:
        self._store.remove(examples)
        learned = tuple(
            view.id
            for view in self._tasks.patches(task)
            if view.metadata.training is not None and view.metadata.training.examples
        )
        if examples:
            text = f"Deleted {len(examples)} examples of task {task}."
            self._events.emit("examples.deleted", text, task=task, count=len(examples))
        return ExamplesDeleted(task=task, deleted=len(examples), patches=learned)

    # consent and use

    def heed_consent(self) -> None:
        """Let go of remembered images, and say so, when the policy no longer gives consent; say when it does again."""
        if self._rules.consent == self._consent:
            return
        self._consent = self._rules.consent
        self._recent.trim()
        count, _ = self._store.usage()
        kept = f"the {count} that are here are used for training" if count else "there are none yet"
        if not self._consent:
            kept = f"the {count} that are here are kept, but not used" if count else "there are none"
        now = "may" if self._consent else "may no longer"
        self._events.emit("examples.consent", f"Applications {now} hand over examples; {kept}.", consent=self._consent)

    def usable(self, task: str) -> tuple[ExampleFile, ...]:
        """What training may learn from now, oldest first; nothing without consent, or where the task takes none."""
        section = self._policies.policy.task.get(task)
        if not self._rules.consent or (section is not None and not section.examples):
            return ()
        now_s = time.time()
        return tuple(
            ExampleFile(id=known.id, task=task, path=str(self._store.path(known)), label=known.label, part=known.part)
            for known in self._store.of_task(task)
            if self._expires_s(known) > now_s
        )

    def count_since(self, task: str, since_s: float) -> int:
        """How many usable examples of a task were handed over or relabelled after a moment, Unix time."""
        usable = {example.id for example in self.usable(task)}
        return sum(known.added_s > since_s for known in self._store.of_task(task) if known.id in usable)
