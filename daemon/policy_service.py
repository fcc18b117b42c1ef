"""The policy in force: a preset or files, re-read when one changes, the last good one kept when one goes wrong."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..policies.errors import NotFoundError, PolicyError, StateError
from ..policies.policy import LoadedPolicy, Policy, load_policy
from ..policies.policy_layers import PRESET
from ..policies.policy_text import effective_text
from ..policies.presets_loader import load_preset, preset_names, preset_text
from .api.schemas import PolicyInfo, PolicyList, PolicyState, PolicyText
from .events import EventLog
from .policy_files import PolicyFiles
from .store import Store

_CHOICE, _LAST_GOOD = "policy.choice", "policy.last_good"


@dataclass(frozen=True)
class _Loaded:
    """A policy with what it was chosen by; `text` is the chosen file's own, or of all files where there are several."""

    loaded: LoadedPolicy
    source: str
    loaded_s: float

    @property
    def policy(self) -> Policy:
        return self.loaded.policy

    @property
    def path(self) -> Path | None:
        return None if self.source.startswith(PRESET) else Path(self.source)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every file's text, in the order in which they count."""
        return tuple(layer.text for layer in self.loaded.merged.layers)

    @property
    def text(self) -> str:
        """The text of the file that was chosen."""
        return next(layer.text for layer in self.loaded.merged.layers if layer.file == self.source)

    @property
    def alone(self) -> str:
        """One text that is this policy without any other file."""
        return self.texts[0] if len(self.texts) == 1 else effective_text(self.loaded.merged)

    def state(self, error: str | None) -> PolicyState:
        return PolicyState(
            name=self.policy.policy.name,
            source=self.source,
            files=self.loaded.merged.files,
            sha256=hashlib.sha256("\0".join(self.texts).encode()).hexdigest(),
            loaded_s=self.loaded_s,
            error=error,
        )


class PolicyService:
    """Holds the policy in force. `choice` is a preset's name or an absolute path; it survives a restart."""

    def __init__(self, store: Store, events: EventLog, configured: str, drop_ins: Path | None = None) -> None:
        """Load the stored choice, else the configured one, with the files in `drop_ins` over it.

        Raises PolicyError when a file is wrong and no last good text of the policy is stored either.
        """
        self._store, self._events, self._drop_ins = store, events, drop_ins
        choice = store.setting(_CHOICE) or configured
        self._error: str | None = None
        self._listeners: list[Callable[[], None]] = []
        self._files = PolicyFiles(drop_ins)
        try:
            self._loaded = self._load(choice, self._files)
        except (PolicyError, NotFoundError) as error:
            last_good = store.setting(f"{_LAST_GOOD}:{choice}")
            if last_good is None:
                raise
            self._error = str(error)
            source = f"{PRESET}{choice}" if choice in preset_names() else choice
            self._loaded = _Loaded(load_policy(source, last_good), source, time.time())
            events.emit("policy.refused", f"{error} The last good version stays in force.", level="error", file=source)
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
        files = PolicyFiles(self._drop_ins)
        loaded = self._load(choice, files)
        with self._store.transaction():
            self._remember(choice, loaded)
            self._store.set_setting(_CHOICE, choice)
        self._loaded, self._files, self._error = loaded, files, None
        self._changed()
        self._events.emit("policy.used", f"Policy {self.policy.policy.name} is in force.", source=self._loaded.source)
        return self.state

    def reload_if_changed(self) -> bool:
        """Read the policy again where one of its files has changed; True when another is in force afterwards."""
        if not self._files.changed():
            return False
        source, path = self._loaded.source, self._loaded.path
        choice = source.removeprefix(PRESET) if path is None else source
        self._files = PolicyFiles(self._drop_ins)
        try:
            loaded = self._load(choice, self._files)
        except PolicyError as error:
            self._error = str(error)
            self._events.emit(
                "policy.refused", f"{error} The last good version stays in force.", level="error", file=source
            )
            return False
        recovered, self._error = self._error is not None, None
        if loaded.texts == self._loaded.texts and not recovered:
            return False
        self._loaded = loaded
        self._changed()
        try:
            self._remember(choice, loaded)
        except StateError as error:
            self._events.emit("state.unwritable", f"{source} is in force, but not kept: {error}", level="error")
        self._events.emit("policy.reloaded", f"{source}: the changed policy is in force.", file=source)
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

    def text(self, name: str | None, effective: bool = False) -> PolicyText:
        """The text of a policy by name; of the one in force without a name. Raises NotFoundError or PolicyError.

        `effective` is the text of all its files together, the drop-ins included.
        """
        if name is None or name == self.policy.policy.name:
            loaded = self._loaded
        elif name in preset_names():
            if not effective:
                return PolicyText(name=name, source=f"{PRESET}{name}", in_force=False, toml=preset_text(name))
            loaded = self._load(name, PolicyFiles(self._drop_ins))
        else:
            raise NotFoundError(f"There is no policy named '{name}'.", hint=f"Presets: {', '.join(preset_names())}.")
        return PolicyText(
            name=loaded.policy.policy.name,
            source=loaded.source,
            in_force=loaded is self._loaded,
            toml=effective_text(loaded.loaded.merged) if effective else loaded.text,
        )

    def _load(self, choice: str, files: PolicyFiles) -> _Loaded:
        loaded = files.load(choice)
        source = f"{PRESET}{choice}" if choice in preset_names() else str(Path(choice).absolute())
        return _Loaded(loaded, source, time.time())

    def _remember(self, choice: str, loaded: _Loaded) -> None:
        """Keep a good policy that needs files, for a start at which one of them is wrong."""
        key = f"{_LAST_GOOD}:{choice}"
        needs_files = loaded.path is not None or len(loaded.texts) > 1
        if needs_files and self._store.setting(key) != loaded.alone:
            self._store.set_setting(key, loaded.alone)
