"""The TCP listener's address: this machine's own, or one sentence that says what is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.config import load_config
from patchd.daemon.loopback import authorities, bind_loopback, bound_at, parse_listen
from patchd.policies.errors import ConfigError
from running import RunningDaemon


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("127.0.0.2:0", ("127.0.0.2", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[0:0:0:0:0:0:0:1]:80", ("::1", 80)),
    ],
)
def test_loopback_addresses_are_taken(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["0.0.0.0:8000", "192.168.1.5:8000", "[::]:8000", "[fe80::1]:80", "8.8.8.8:53"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an address of this machine alone"):
        parse_listen(text)


@pytest.mark.parametrize("text", ["", "8000", "localhost:8000", "127.0.0.1", "::1:80", "127.0.0.1:65536", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address and port"):
        parse_listen(text)


@given(st.text(max_size=30) | st.from_regex(r"\[?[0-9a-f:.]{0,20}\]?:[0-9]{0,6}", fullmatch=True))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        address, port = parse_listen(text)
    except ConfigError:
        return
    assert address.startswith("127.") or ":" in address
    assert 0 <= port <= 0xFFFF


def test_the_configuration_refuses_an_address_with_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "patchd.toml"
    file.write_text('listen = "0.0.0.0:8000"\n')
    with pytest.raises(ConfigError, match=r"patchd\.toml: key 'listen': 0\.0\.0\.0 is not an address of this machine"):
        load_config(file)


def test_port_0_finds_a_free_one_and_a_taken_port_is_said() -> None:
    with bind_loopback("127.0.0.1:0") as listener:
        place = bound_at(listener)
        assert not place.endswith(":0")
        with pytest.raises(ConfigError, match=f"cannot listen at {place}: Address already in use"):
            bind_loopback(place)


def test_a_host_is_any_name_of_this_machine_with_the_port() -> None:
    with bind_loopback("127.0.0.2:0") as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.2", port)) as connection, listener.accept()[0] as accepted:
            assert connection
            names = ("localhost", "127.0.0.1", "127.0.0.2", "[::1]")
            assert authorities(accepted) == {f"{name}:{port}" for name in names}


def test_a_daemon_that_cannot_listen_ends_with_one_sentence_and_leaves_no_socket(tmp_path: Path) -> None:
    with bind_loopback("127.0.0.1:0") as listener:
        (tmp_path / "patchd.toml").write_text(f'listen = "{bound_at(listener)}"\n')
        daemon = RunningDaemon(tmp_path / "state", "--config", str(tmp_path / "patchd.toml"))
        try:
            daemon.start(wait=False)
            assert daemon.process is not None
            assert daemon.process.wait(30) == 1
            assert daemon.text().splitlines()[-1].startswith("patchd: patchd cannot listen at 127.0.0.1:")
            assert not daemon.socket.exists()
        finally:
            daemon.__exit__()
