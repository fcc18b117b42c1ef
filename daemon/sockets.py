"""The local socket: where it lies, how it is bound or inherited, and who is at the other end."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..policies.errors import ConfigError, ConflictError

MAX_PATH_BYTES = 107  # sun_path is 108 bytes with its final zero
BACKLOG = 128
NOBODY_CONNECTED = 2**32 - 1  # SO_PEERCRED of a socket without a peer
MACHINE_SOCKET = Path("/run/patchd/patchd.sock")  # where the system service listens
FIRST_INHERITED_FD = 3  # sd_listen_fds(3)
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid_t is signed, uid_t and gid_t are not
PROBE_TIMEOUT_S = 1.0


def default_socket_path(environ: Mapping[str, str]) -> Path:
    """$RUNTIME_DIRECTORY/patchd.sock, else $XDG_RUNTIME_DIR/patchd/patchd.sock, else /run/patchd/patchd.sock for
    root and ~/.patchd/patchd.sock for others."""
    if directory := environ.get("RUNTIME_DIRECTORY"):
        return Path(directory.split(":")[0]) / "patchd.sock"
    if directory := environ.get("XDG_RUNTIME_DIR"):
        return Path(directory) / "patchd" / "patchd.sock"
    if os.geteuid() == 0:
        return MACHINE_SOCKET
    return Path.home() / ".patchd" / "patchd.sock"


def bind_unix(path: Path, mode: int = 0o660) -> socket.socket:
    """Bind and listen; at no moment is the socket open to more than `mode` says.

    It is bound under a temporary name and moved into place, so the umask alone never decides. A dead daemon's socket
    is replaced. Raises ConfigError when the path is too long or unusable, ConflictError when a live daemon holds it.
    """
    length = len(os.fsencode(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if len(os.fsencode(temporary)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"The socket path {path} is {length} bytes long; the kernel takes at most "
            f"{MAX_PATH_BYTES - (len(os.fsencode(temporary)) - length)} bytes.",
            hint="Give a shorter one with --socket.",
        )
    listener: socket.socket | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        _refuse_live(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        umask = os.umask(0o777 & ~mode)
        try:
            temporary.unlink(missing_ok=True)
            listener.bind(os.fspath(temporary))
        finally:
            os.umask(umask)
        temporary.chmod(mode)
        listener.listen(BACKLOG)
        temporary.replace(path)
    except OSError as error:
        if listener is not None:
            listener.close()
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"The socket {path} cannot be made: {error.strerror or error}.", hint="Give another with --socket."
        ) from error
    listener.setblocking(False)
    return listener


def _refuse_live(path: Path) -> None:
    """Raise ConflictError when something answers at `path`, ConfigError when it is no socket."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"{path} exists and is not a socket.", hint="Give another with --socket.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (BlockingIOError, TimeoutError):
            pass  # its queue is full, so somebody listens
    raise ConflictError(f"A daemon already answers at {path}.", hint="Stop it, or give another with --socket.")


def inherited_socket(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that systemd hands over (sd_listen_fds(3)); None when there is none.

    Raises ConfigError when it is not one listening Unix stream socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdigit():
        return None
    count = int(environ["LISTEN_FDS"])
    if count == 0:
        return None
    if count > 1:
        raise ConfigError(f"systemd handed over {count} sockets; patchd serves on one.", hint="Mend patchd.socket.")
    listener = socket.socket(fileno=FIRST_INHERITED_FD)
    listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listening:
        raise ConfigError("The inherited socket is not a listening Unix stream socket.", hint="Mend patchd.socket.")
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def remove(path: Path) -> None:
    """Remove the socket; it may be gone already."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection, as the kernel says (SO_PEERCRED), not as the caller says."""

    pid: int | None
    uid: int | None
    gid: int | None
    user: str
    connected_s: float | None = None  # since the machine's start, CLOCK_BOOTTIME

    @classmethod
    def of(cls, sock: socket.socket) -> Caller:
        """The peer of a connected Unix socket."""
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return cls.unknown()
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        if pid <= 0 and uid == NOBODY_CONNECTED:
            return cls.unknown()
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = f"user {uid}"
        return cls(pid, uid, gid, user, time.clock_gettime(time.CLOCK_BOOTTIME))

    @classmethod
    def unknown(cls) -> Caller:
        """A peer whose credentials the kernel does not tell."""
        return cls(None, None, None, "an unknown caller")

    @property
    def client(self) -> str:
        """What tells one application from another: its process; all callers without one count as one."""
        return "" if self.pid is None else str(self.pid)

    def may_administer(self, daemon_uid: int) -> bool:
        """Whether this is root or the daemon's own user; an unknown caller never is."""
        return self.uid is not None and self.uid in (0, daemon_uid)
