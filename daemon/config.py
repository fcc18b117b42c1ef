"""The daemon's own configuration: a TOML file, overridden by command-line options."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from ..policies.errors import ConfigError
from ..policies.snapshot import Frozen
from .loopback import parse_listen
from .policy_files import DROP_INS


class DaemonConfig(Frozen):
    """Every key of `patchd --config FILE`; all are optional."""

    state: Path | None = Field(
        None, description="state directory; default $STATE_DIRECTORY, else ~/.local/state/patchd"
    )
    socket: Path | None = Field(None, description="socket path; default: see docs/install.md")
    socket_mode: int = Field(0o660, ge=0, le=0o777, description="mode of the socket, e.g. 0o660")
    listen: str | None = Field(
        None, description="loopback address and port to serve on as well, e.g. 127.0.0.1:8000; default: none"
    )
    policy: str = Field("balanced", description="a preset's name or the path of a policy file")
    policies_dir: Path = Field(DROP_INS, description="directory whose *.toml files are laid over the policy, in order")
    admin_users: tuple[str, ...] = Field((), description="users beside root and the daemon's own who may change things")
    proc_root: Path = Field(Path("/proc"), description="where /proc is read")
    sys_root: Path = Field(Path("/sys"), description="where /sys is read")
    dev_root: Path = Field(Path("/dev"), description="where terminals are looked for")
    system_bus: Path = Field(Path("/run/dbus/system_bus_socket"), description="socket of the D-Bus system bus")
    sample_period_s: float = Field(
        1.0, ge=0.1, le=60, description="seconds between two samples while something moves or works"
    )
    sample_period_calm_s: float = Field(
        4.0, ge=0.1, le=60, description="seconds between two samples when nothing has moved for long"
    )
    signal_plugins: tuple[str, ...] = Field(
        (), description="plug-ins that give further signals, by name: entry points of the group patchd.signals"
    )
    threads: int | None = Field(None, ge=1, description="threads of a worker; default: usable cores, rounded down")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="what runs predictions; auto: openvino where it is installed, else torch"
    )
    precision: Literal["f32", "bf16"] = Field(
        "f32", description="numbers that openvino computes in; bf16 where it gives the same first answers, else f32"
    )
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="largest request body")
    max_image_pixels: int = Field(40_000_000, ge=1024, description="largest image, in pixels, before decoding")
    queue_limit: int = Field(64, ge=1, description="predictions in flight before 'busy, retry after' is answered")
    profile_every_s: float = Field(1800.0, ge=10, description="seconds between two calibrations of a loaded base")
    measure_training_s: float = Field(
        40.0,
        ge=0,
        le=600,
        description="seconds for measuring what training a base costs before its first job; 0: not by itself",
    )
    keep_events: int = Field(20_000, ge=100, description="events kept in the state")
    keep_requests: int = Field(
        10_000, ge=100, le=1_000_000, description="records of answered predictions kept for explain, about 1 kB each"
    )
    keep_decisions: int = Field(20_000, ge=100, description="decisions kept in the state, 64 MiB of them at most")

    @field_validator("listen")
    @classmethod
    def _only_this_machine(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_listen(value)
            except ConfigError as error:
                raise ValueError(str(error).rstrip(".")) from error
        return value


def load_config(path: Path | None) -> DaemonConfig:
    """Read and check a configuration file; without one, the defaults.

    Raises ConfigError naming file, line or key, and what to do.
    """
    if path is None:
        return DaemonConfig()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text.") from error
    try:
        return DaemonConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(DaemonConfig.model_fields))
            raise ConfigError(f"{path}: key '{key}' is not known.", hint=f"Known keys: {known}.") from error
        raise ConfigError(f"{path}: key '{key}': {first['msg'].removeprefix('Value error, ')}.") from error


def default_state_dir(environ: dict[str, str]) -> Path:
    """$STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/patchd, else ~/.local/state/patchd."""
    if "STATE_DIRECTORY" in environ:
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "patchd"


def resolved(config: DaemonConfig, environ: dict[str, str] | None = None) -> Path:
    """The state directory in force, absolute."""
    return (config.state or default_state_dir(dict(environ or os.environ))).absolute()
