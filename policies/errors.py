"""The one exception hierarchy of patchd. It lives here because every package may import `policies`.

An error is one sentence that says what is wrong and where, and a hint that says what to do.
The `code` is stable and machine-readable: the API sends it, `patchctl` maps it to an exit code.
"""

from __future__ import annotations

from typing import ClassVar


class PatchdError(Exception):
    """Base of all errors that patchd raises on purpose; `str(error)` is message and hint in one sentence each."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class BadInputError(PatchdError):
    """The caller sent something that cannot be used: a wrong shape, a broken image, an unknown key."""

    code = "bad_input"


class NotFoundError(PatchdError):
    """The named task, patch, job, policy or decision does not exist."""

    code = "not_found"


class ConflictError(PatchdError):
    """The request contradicts the present state: a name is taken, a job has already ended."""

    code = "conflict"


class ForbiddenError(PatchdError):
    """The caller, known by its user id, may not do this."""

    code = "forbidden"


class TooLargeError(PatchdError):
    """The body or the image is larger than the configured limit."""

    code = "too_large"


class BusyError(PatchdError):
    """The queue is full; `retry_after_s` says when to come back."""

    code = "busy"


class DeadlineError(PatchdError):
    """The answer could not be had within the time that the caller gave."""

    code = "deadline"


class WorkerCrashedError(PatchdError):
    """The worker process died while it held the request; the request may be sent again."""

    code = "worker_crashed"


class UnavailableError(PatchdError):
    """The daemon is not reachable, is stopping, or lacks what the request needs."""

    code = "unavailable"


class PolicyError(BadInputError):
    """A policy file is wrong; the message names file, line and key."""

    code = "bad_policy"


class TraceError(BadInputError):
    """A resource trace is wrong; the message names file and line."""

    code = "bad_trace"


class PatchMismatchError(BadInputError):
    """A patch does not fit the base it was offered to; the message names the tensor or the fingerprint."""

    code = "patch_mismatch"


class DataSetError(BadInputError):
    """A data set cannot be trained on; the message names the file or the class."""

    code = "bad_data_set"


class ConfigError(BadInputError):
    """The daemon's own configuration is wrong."""

    code = "bad_config"


class StateError(PatchdError):
    """The state directory cannot be used: locked by another daemon, full, or damaged."""

    code = "bad_state"


class TrainingError(PatchdError):
    """A training job cannot go on: its loss is no longer a number, or memory ran out."""

    code = "training_failed"
