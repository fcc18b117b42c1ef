"""What kind of image some bytes are, by the first of them; whether it can be decoded is for a worker to say."""

from __future__ import annotations

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp")
SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/bmp": ".bmp"}
_MAGICS = (  # media type, first bytes, bytes from the eighth on
    ("image/jpeg", b"\xff\xd8\xff", b""),
    ("image/png", b"\x89PNG\r\n\x1a\n", b""),
    ("image/webp", b"RIFF", b"WEBP"),
    ("image/bmp", b"BM", b""),
)


def media_type(image: bytes) -> str | None:
    """The media type of an encoded image; None for what begins as none of those that patchd reads."""
    found = (media for media, start, at_eight in _MAGICS if image.startswith(start) and image.startswith(at_eight, 8))
    return next(found, None)
