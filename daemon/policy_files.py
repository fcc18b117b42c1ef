"""Policies read from the disk: a preset or a file, what it includes, the drop-ins over it, and whether one changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..policies.errors import NotFoundError, PolicyError
from ..policies.policy import LoadedPolicy, load_policy
from ..policies.policy_layers import PRESET
from ..policies.presets_loader import preset_names, preset_text

DROP_INS = Path("/etc/patchd/policies.d")  # where nothing else is configured; it need not exist

_Stamp = tuple[object, ...] | None


class PolicyFiles:
    """Reads one policy, and remembers every file that it looked at: also when it ends in an error.

    `drop_ins` is the directory whose `*.toml` are laid over the policy in the order of their names; None is none.
    """

    def __init__(self, drop_ins: Path | None) -> None:
        self._drop_ins = None if drop_ins is None else drop_ins.absolute()
        self._stamps: dict[Path, _Stamp] = {}

    def load(self, choice: str) -> LoadedPolicy:
        """Read a preset by its name or a file by its path. Raises PolicyError, or NotFoundError for an unknown name."""
        over = self._names()
        if choice in preset_names():
            return load_policy(f"{PRESET}{choice}", preset_text(choice), self._read, over)
        path = Path(choice)
        if not path.is_absolute() and not path.exists():
            raise NotFoundError(
                f"There is no policy named '{choice}'.",
                hint=f"Presets: {', '.join(preset_names())}; or give the path of a policy file.",
            )
        file = str(path.absolute())
        return load_policy(file, self._read(file), self._read, over)

    def load_file(self, path: Path) -> LoadedPolicy:
        """Read a policy file; in what is said of it, it is called what it is called here. Raises PolicyError."""
        return load_policy(str(path), self._read(str(path)), self._read, self._names())

    def changed(self) -> bool:
        """Whether a file that was looked at is another by now, or a drop-in came or went."""
        return any(_stamp(path) != stamp for path, stamp in self._stamps.items())

    def _names(self) -> Sequence[str]:
        """The drop-ins, in the order of their names."""
        folder = self._drop_ins
        if folder is None:
            return ()
        self._stamps[folder] = _stamp(folder)
        try:
            return [str(path) for path in _toml_files(folder)]
        except FileNotFoundError as error:
            if folder == DROP_INS:
                return ()
            raise PolicyError(
                f"The directory {folder} does not exist.", hint="Make it, or change policies_dir in the configuration."
            ) from error
        except OSError as error:
            raise PolicyError(f"The directory {folder} cannot be read: {error.strerror}.") from error

    def _read(self, name: str) -> str:
        if name.startswith(PRESET):
            return preset_text(name.removeprefix(PRESET))
        path = Path(name)
        self._stamps[path] = _stamp(path)
        return read_text(path)


def read_text(path: Path) -> str:
    """The text of a policy file. Raises PolicyError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: is not UTF-8 text.") from error
    except ValueError as error:  # a name with a zero byte
        raise PolicyError(f"{path}: cannot be read: {error}.") from error


def _toml_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))


def _stamp(path: Path) -> _Stamp:
    """What tells one state of a file from another: its time, size and inode; of a directory, the files in it."""
    try:
        if path.is_dir():
            return tuple(found.name for found in _toml_files(path))
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
