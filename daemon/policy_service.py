"""The policy in force: a preset or a file, re-read when it changes, the last good one kept when it goes wrong."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..policies.errors import NotFoundError, PolicyError, StateError
from ..policies.policy import Policy, parse_policy
from ..policies.presets_loader import load_preset, preset_names, preset_text
from .api.schemas import PolicyInfo, PolicyList, PolicyState, PolicyText
from .events import EventLog
from .store import Store

_CHOICE, _LAST_GOOD = "policy.choice", "policy.last_good"


@dataclass(frozen=True)
class _Loaded:
    policy: Policy
    text: str
    source: str
    path: Path | None
    loaded_s: float

    def state(self, error: str | None) -> PolicyState:
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return PolicyState(
            name=self.policy.policy.name, source=self.source, sha256=digest, loaded_s=self.loaded_s, error=error
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: is not UTF-8 text.") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class PolicyService:
    """Holds the policy in force. `choice` is a preset's name or an absolute path; it survives a restart."""

    def __init__(self, store: Store, events: EventLog, configured: str) -> None:
        """Load the stored choice, else the configured one.

        Raises PolicyError when the file is wrong and no last good text of it is stored either.
        """
        self._store, self._events = store, events
        choice = store.setting(_CHOICE) or configured
        self._error: str | None = None
        self._listeners: list[Callable[[], None]] = []
        self._seen: tuple[int, int, int] | None = None
        try:
            self._loaded = self._load(choice)
        except (PolicyError, NotFoundError) as error:
            last_good = store.setting(f"{_LAST_GOOD}:{choice}")
            if last_good is None:
                raise
            self._error = str(error)
            self._loaded = _Loaded(parse_policy(last_good, choice), last_good, choice, Path(choice), time.time())
            events.emit("policy.refused", f"{error} The last good version stays in force.", level="error", file=choice)
        self._remember(choice, self._loaded)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever another policy is in force."""
        self._listeners.append(listener)

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._loaded.policy

    @property
    def state(self) -> PolicyState:
        """What is in force and what was refused, for the API."""
        return self._loaded.state(self._error)

    def use(self, choice: str) -> PolicyState:
        """Put another policy in force. Raises PolicyError, NotFoundError or StateError: nothing has changed then."""
        seen, loaded = self._seen, self._load(choice)
        try:
            with self._store.transaction():
                self._remember(choice, loaded)
                self._store.set_setting(_CHOICE, choice)
        except StateError:
            self._seen = seen
            raise
        self._loaded, self._error = loaded, None
        self._changed()
        self._events.emit("policy.used", f"Policy {self.policy.policy.name} is in force.", source=self._loaded.source)
        return self.state

    def reload_if_changed(self) -> bool:
        """Re-read a changed policy file; True when another policy is in force afterwards."""
        path = self._loaded.path
        if path is None:
            return False
        stamp = _stamp(path)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            loaded = self._load(str(path))
        except PolicyError as error:
            self._error = str(error)
            self._events.emit(
                "policy.refused", f"{error} The last good version stays in force.", level="error", file=str(path)
            )
            return False
        recovered, self._error = self._error is not None, None
        if loaded.text == self._loaded.text and not recovered:
            return False
        self._loaded = loaded
        self._changed()
        try:
            self._remember(str(path), loaded)
        except StateError as error:
            self._events.emit("state.unwritable", f"{path} is in force, but not kept: {error}", level="error")
        self._events.emit("policy.reloaded", f"{path}: the changed policy is in force.", file=str(path))
        return True

    def listing(self) -> PolicyList:
        """Presets, and the file in force when it is none of them."""
        rows = [
            PolicyInfo(
                name=name,
                source=f"preset:{name}",
                description=load_preset(name).policy.description,
                in_force=self._loaded.source == f"preset:{name}",
            )
            for name in preset_names()
        ]
        if self._loaded.path is not None:
            head = self.policy.policy
            rows.append(
                PolicyInfo(name=head.name, source=self._loaded.source, description=head.description, in_force=True)
            )
        return PolicyList(policies=tuple(rows))

    def text(self, name: str | None) -> PolicyText:
        """The text of a policy by name; of the one in force without a name. Raises NotFoundError."""
        if name is None or name == self.policy.policy.name:
            loaded = self._loaded
            return PolicyText(name=loaded.policy.policy.name, source=loaded.source, in_force=True, toml=loaded.text)
        if name not in preset_names():
            raise NotFoundError(f"There is no policy named '{name}'.", hint=f"Presets: {', '.join(preset_names())}.")
        return PolicyText(name=name, source=f"preset:{name}", in_force=False, toml=preset_text(name))

    def _load(self, choice: str) -> _Loaded:
        if choice in preset_names():
            return _Loaded(load_preset(choice), preset_text(choice), f"preset:{choice}", None, time.time())
        path = Path(choice)
        if not path.is_absolute() and not path.exists():
            raise NotFoundError(
                f"There is no policy named '{choice}'.",
                hint=f"Presets: {', '.join(preset_names())}; or give the path of a policy file.",
            )
        path = path.absolute()
        self._seen = _stamp(path)
        text = _read(path)
        return _Loaded(parse_policy(text, str(path)), text, str(path), path, time.time())

    def _remember(self, choice: str, loaded: _Loaded) -> None:
        """Keep a good file's text, for a start at which the file is wrong."""
        key = f"{_LAST_GOOD}:{choice}"
        if loaded.path is not None and self._store.setting(key) != loaded.text:
            self._store.set_setting(key, loaded.text)
