"""The reading of HTTP/1.1 and of event streams, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.client.call import Call
from patchd.client.http1 import (
    LINE_LIMIT,
    Buffer,
    EventParser,
    HttpAnswer,
    HttpError,
    Reading,
    read_answer,
    request_head,
)

Read = TypeVar("Read")


def fed(reading: Reading[Read], parts: list[bytes]) -> Read:
    """What the generator returns when a socket gives `parts`, and then its end."""
    buffer, left = Buffer(), [*parts, b""]
    try:
        need = next(reading)
        while True:
            while (data := buffer.take(need)) is None:
                buffer.feed(left.pop(0))
            need = reading.send(data)
    except StopIteration as end:
        return end.value


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [part for low, high in pairwise(edges) if (part := data[low:high])]


def chunked(parts: list[bytes]) -> bytes:
    return b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\nTrailer: x\r\n\r\n"


PLACES = st.lists(st.integers(0, 10_000), max_size=6)


@settings(max_examples=60)
@given(st.integers(200, 599), st.binary(max_size=300), PLACES, st.booleans())
def test_an_answer_is_read_however_its_bytes_are_cut(status: int, body: bytes, places: list[int], lean: bool) -> None:
    body = b"" if status in (204, 304) else body
    end = b"\n" if lean else b"\r\n"
    head = b"HTTP/1.1 %d Whatever" % status
    told = end.join((b"HTTP/1.1 100 Continue", b"", head, b"Content-length: %d" % len(body), b"X: y", b"", b""))
    assert fed(read_answer(), cut(told + body, places)) == HttpAnswer(status, body, True)


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=60), max_size=5), PLACES, st.booleans())
def test_a_chunked_answer_is_put_together(parts: list[bytes], places: list[int], closes: bool) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + (b"Connection: close\r\n" if closes else b"") + b"\r\n"
    )
    answer = fed(read_answer(), cut(head + chunked(parts), places))
    assert answer == HttpAnswer(200, b"".join(parts), not closes)


def test_without_a_length_the_answer_ends_with_the_connection() -> None:
    assert fed(read_answer(), [b"HTTP/1.0 200 OK\r\n\r\nab", b"c"]) == HttpAnswer(200, b"abc", False)


@given(st.binary(max_size=200), PLACES)
def test_what_is_no_http_is_one_kind_of_error(noise: bytes, places: list[int]) -> None:
    try:
        fed(read_answer(), cut(noise, places))
    except HttpError:
        return
    assert noise.startswith(b"HTTP/1.")


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 " + b"x" * (2 * LINE_LIMIT),
        b"x" * (2 * LINE_LIMIT),
    ],
    ids=lambda told: f"{told[16:40]!r}" if len(told) < LINE_LIMIT else f"{told[:12]!r} and so on",
)
def test_a_broken_or_endless_answer_is_an_error(told: bytes) -> None:
    with pytest.raises(HttpError):
        fed(read_answer(), [told])


EVENTS = st.lists(st.lists(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))), min_size=1), max_size=4)


@settings(max_examples=60)
@given(EVENTS, PLACES)
def test_events_are_told_apart_however_the_stream_is_cut(events: list[list[str]], places: list[int]) -> None:
    told = "".join(
        "id: 1\nevent: x\n" + "".join(f"data: {line}\n" for line in lines) + "\n: ping\n\n" for lines in events
    )
    parser = EventParser()
    found = [event for part in cut(told.encode(), places) for event in parser.feed(part)]
    assert found == ["\n".join(lines) for lines in events]


def test_a_post_says_its_length_even_without_a_body_and_a_get_says_none() -> None:
    assert b"Content-Length: 0\r\n" in request_head(Call("POST", "/v1/x", bytes))
    assert b"Content-" not in request_head(Call("GET", "/v1/x", bytes))
    assert request_head(Call("POST", "/v1/x", bytes, b"ab", "image/png")).endswith(
        b"Content-Type: image/png\r\nContent-Length: 2\r\n\r\n"
    )
