"""A private message bus, and a service on it that answers for properties, as NetworkManager and logind do.

The wire format is that of the D-Bus specification: SASL EXTERNAL, then messages in little-endian order.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

CONFIG = """<busconfig>
  <type>session</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy>
</busconfig>"""
CALL, RETURN, ERROR = 1, 2, 3
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)
Value = bool | int | str


@contextmanager
def message_bus(folder: Path) -> Iterator[Path]:
    """A bus of its own; its socket."""
    path, config = folder / "bus", folder / "bus.conf"
    config.write_text(CONFIG.format(socket=path))
    process = subprocess.Popen(["dbus-daemon", f"--config-file={config}", "--nofork"], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield path
    finally:
        process.terminate()
        process.wait()


@contextmanager
def service(bus: Path, name: str, properties: Mapping[str, tuple[str, Value]]) -> Iterator[None]:
    """Own `name` on the bus, and answer Get for `properties`: a type code and a value each."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(bus))
        connection.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert connection.recv(1024).startswith(b"OK")
        connection.sendall(b"BEGIN\r\n")
        stream = connection.makefile("rb")
        bus_itself = {
            PATH: "/org/freedesktop/DBus",
            INTERFACE: "org.freedesktop.DBus",
            DESTINATION: "org.freedesktop.DBus",
        }
        connection.sendall(_message(CALL, 1, {**bus_itself, MEMBER: "Hello"}))
        request = _text(name) + _pad(len(_text(name)), 4) + struct.pack("<I", 0)
        connection.sendall(_message(CALL, 2, {**bus_itself, MEMBER: "RequestName", SIGNATURE: "su"}, request))
        while _next(stream)[1].get(REPLY_SERIAL) != 2:
            pass
        answering = threading.Thread(target=_answer, args=(connection, stream, properties), daemon=True)
        answering.start()
        try:
            yield
        finally:
            connection.shutdown(socket.SHUT_RDWR)
            answering.join(10)


def _answer(connection: socket.socket, stream, properties: Mapping[str, tuple[str, Value]]) -> None:
    serial = 2
    while message := _next(stream):
        kind, fields, body, number = message
        if kind != CALL:
            continue
        serial += 1
        size = struct.unpack_from("<I", body)[0]
        begin = (4 + size + 1 + 3) // 4 * 4
        length = struct.unpack_from("<I", body, begin)[0]
        asked = body[begin + 4 : begin + 4 + length].decode()
        reply = {REPLY_SERIAL: number, DESTINATION: fields[SENDER]}
        if asked in properties:
            code, value = properties[asked]
            answer = _message(RETURN, serial, {**reply, SIGNATURE: "v"}, _variant(code, value))
        else:
            unknown = "org.freedesktop.DBus.Error.UnknownProperty"
            told = _text(f"no {asked}")
            answer = _message(ERROR, serial, {**reply, ERROR_NAME: unknown, SIGNATURE: "s"}, told)
        connection.sendall(answer)


def _next(stream):
    head = stream.read(16)
    if len(head) < 16:
        return None
    _, kind, _, _, body_size, serial, fields_size = struct.unpack("<BBBBIII", head)
    raw = stream.read(fields_size + (-fields_size) % 8)
    fields, at = {}, 0
    while at < fields_size:
        at += (-at) % 8
        code, signature = raw[at], chr(raw[at + 2])
        at += 4
        if signature in "os":
            at += (-at) % 4
            length = struct.unpack_from("<I", raw, at)[0]
            fields[code] = raw[at + 4 : at + 4 + length].decode()
            at += 4 + length + 1
        elif signature == "g":
            length = raw[at]
            fields[code] = raw[at + 1 : at + 1 + length].decode()
            at += 1 + length + 1
        else:
            at += (-at) % 4
            fields[code] = struct.unpack_from("<I", raw, at)[0]
            at += 4
    return kind, fields, stream.read(body_size), serial


def _message(kind: int, serial: int, fields: Mapping[int, Value], body: bytes = b"") -> bytes:
    raw = b""
    for code, value in fields.items():
        raw += _pad(len(raw), 8) + bytes([code])
        if code == SIGNATURE:
            raw += b"\1g\0" + bytes([len(str(value))]) + str(value).encode() + b"\0"
        elif code == REPLY_SERIAL:
            raw += b"\1u\0" + _pad(len(raw) + 3, 4) + struct.pack("<I", value)
        else:
            raw += (b"\1o\0" if code == PATH else b"\1s\0") + _pad(len(raw) + 3, 4) + _text(str(value))
    head = struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), serial, len(raw))
    return head + raw + _pad(len(raw), 8) + body


def _variant(code: str, value: Value) -> bytes:
    form = {"b": "<I", "u": "<I", "t": "<Q"}.get(code)
    raw = b"\1" + code.encode() + b"\0"
    size = 8 if code == "t" else 4
    return raw + _pad(len(raw), size) + (_text(str(value)) if form is None else struct.pack(form, int(value)))


def _text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode() + b"\0"


def _pad(size: int, to: int) -> bytes:
    return b"\0" * (-size % to)
