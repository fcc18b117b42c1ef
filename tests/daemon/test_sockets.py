"""The local socket and systemd's protocols, over real sockets."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from patchd.daemon.config import DaemonConfig, default_state_dir, load_config
from patchd.daemon.notify import notify, watchdog_interval_s
from patchd.daemon.sockets import Caller, bind_unix, default_socket_path, inherited_socket
from patchd.policies.errors import ConfigError, ConflictError

PRINT_INHERITED = (
    "import os; from patchd.daemon.sockets import inherited_socket; s = inherited_socket(os.environ);"
    " print(None if s is None else s.getsockname())"
)


@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_the_socket_has_its_mode_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with bind_unix(tmp_path / "s", mode):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
            assert [path.name for path in tmp_path.iterdir()] == ["s"]
    finally:
        os.umask(before)


def test_a_dead_daemons_socket_is_replaced_and_a_live_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path).close()
    with bind_unix(path), pytest.raises(ConflictError, match="already answers"):
        bind_unix(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        bind_unix(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_too_long_for_the_kernel_is_refused_with_its_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\d+ bytes long"):
        bind_unix(tmp_path / ("x" * 120))


def test_the_peer_is_known_by_the_kernel(tmp_path: Path) -> None:
    with bind_unix(tmp_path / "s") as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        listener.setblocking(True)
        peer, _ = listener.accept()
        with peer:
            caller = Caller.of(peer)
    assert (caller.pid, caller.uid, caller.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert caller.may_administer(os.geteuid())


def test_only_root_and_the_daemons_user_administer() -> None:
    assert Caller(1, 0, 0, "root").may_administer(999)
    assert Caller(1, 999, 0, "patchd").may_administer(999)
    assert not Caller(1, 1000, 0, "anna").may_administer(999)
    assert not Caller.unknown().may_administer(0)


def test_a_socket_handed_over_by_systemd_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path) as listener:
        os.set_inheritable(listener.fileno(), True)
        script = f'exec 3<&{listener.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" -c "$1"'
        done = subprocess.run(
            ["bash", "-c", script, sys.executable, PRINT_INHERITED],
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            check=True,
        )
    # The kernel remembers the name it was bound under, before it was moved into place.
    assert done.stdout.strip().startswith(str(tmp_path / ".s."))


def test_another_process_s_sockets_are_not_taken() -> None:
    assert inherited_socket({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) is None
    assert inherited_socket({}) is None


def test_the_default_places_follow_systemd_then_xdg() -> None:
    assert default_socket_path({"RUNTIME_DIRECTORY": "/run/p"}) == Path("/run/p/patchd.sock")
    assert default_socket_path({"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/patchd/patchd.sock")
    assert default_state_dir({"STATE_DIRECTORY": "/var/lib/patchd"}) == Path("/var/lib/patchd")
    assert default_state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/patchd")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified_over_a_real_socket(tmp_path: Path, abstract: bool) -> None:
    name = f"@patchd-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name[1:]}" if abstract else name)
        receiver.settimeout(5)
        assert notify("READY=1", {"NOTIFY_SOCKET": name})
        assert receiver.recv(100) == b"READY=1"
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    assert not notify("READY=1", {})


def test_the_watchdog_is_fed_at_half_its_time_and_only_when_it_watches_this_process() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({}) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample_periods_s = 1", "sample_periods_s"),
        ("sample_period_s = 0", "sample_period_s"),
        ("queue_limit = [", "not TOML"),
        ('threads = "two"', "threads"),
    ],
)
def test_a_wrong_configuration_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "patchd.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_without_a_file_the_configuration_is_the_default(tmp_path: Path) -> None:
    assert load_config(None) == DaemonConfig()
    (tmp_path / "c").write_text('policy = "powersave"\nthreads = 1\n')
    assert load_config(tmp_path / "c").policy == "powersave"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing")
