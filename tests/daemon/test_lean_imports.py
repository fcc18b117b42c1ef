"""What is kept out of the daemon's memory, and that all else works without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from patchd.daemon.lean_imports import hollow, without, without_openssl
from running import RunningDaemon

WITHOUT = """
import sys
from patchd.daemon.lean_imports import without_openssl
without_openssl()
import asyncio, hashlib, hmac, http.client, secrets, ssl, urllib.request
from patchd.daemon.app import Daemon
assert hashlib.sha256(b"abc").hexdigest().startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
assert hmac.digest(b"k", b"m", "sha256") and secrets.token_hex(4)

async def talk():
    server = await asyncio.start_server(lambda r, w: (w.write(b"x"), w.close()), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b"x"
    writer.close()

asyncio.run(talk())
print(open("/proc/self/maps").read())
"""


def test_sockets_and_hashes_work_without_openssl() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120, check=True)
    assert "libcrypto" not in done.stdout
    assert "libssl" not in done.stdout


def test_a_running_daemon_maps_no_openssl(daemon: RunningDaemon) -> None:
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert not [name for name in ("libcrypto", "libssl") if name in maps]


def test_where_openssl_is_already_there_it_stays() -> None:
    import ssl

    without_openssl()
    assert ssl.create_default_context().check_hostname


def test_stand_ins_last_as_long_as_they_are_asked_for() -> None:
    name = "wave"  # a module that nothing here has imported
    assert name not in sys.modules
    with without(name):
        try:
            import wave
        except ImportError:
            pass
        else:
            raise AssertionError(f"{wave} was imported")
    with hollow(name, "Wave_read"):
        from wave import Wave_read
    assert vars(Wave_read).get("__init__") is None
    import wave

    assert wave.Wave_read is not Wave_read
