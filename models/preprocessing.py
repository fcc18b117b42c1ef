"""From image bytes to a network input. Bytes come from strangers: sizes are checked before a pixel is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from torch import Tensor

from ..policies.errors import BadInputError, TooLargeError
from ..policies.task import Preprocessing

MAX_PIXELS = 40_000_000
SCALED_DECODE_MARGIN = 2  # a JPEG decoded at a reduced scale keeps at least this many times the pixels a side it needs

_FORMATS: tuple[tuple[bytes, bytes, Callable[[BytesIO], ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", b"", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", b"", PngImagePlugin.PngImageFile),
    (b"RIFF", b"WEBP", WebPImagePlugin.WebPImageFile),
    (b"BM", b"", BmpImagePlugin.BmpImageFile),
)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HINT = "Send a complete JPEG, PNG, WebP or BMP file."


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Read an image's header only; `.size` is (width, height) as sent, before EXIF orientation.

    Raises BadInputError when `data` is no JPEG, PNG, WebP or BMP, and TooLargeError above `max_pixels`.
    """
    if not data:
        raise BadInputError("The image is empty (0 bytes).", hint=_HINT)
    # The plugin is picked here, not by Image.open, whose own limit on pixels would overrule `max_pixels`.
    plugin = next(
        (p for start, at_eight, p in _FORMATS if data.startswith(start) and data.startswith(at_eight, 8)), None
    )
    if plugin is None:
        raise BadInputError(f"The {len(data)} bytes sent are not an image that can be read.", hint=_HINT)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = plugin(BytesIO(data))
    except Image.DecompressionBombError as error:  # the WebP plugin looks at Pillow's limit before ours
        raise TooLargeError(
            f"The image is over the {max_pixels / 1e6:.1f} megapixels that are accepted ({_first_line(error)}).",
            hint="Send a smaller image.",
        ) from error
    except Exception as error:  # hostile bytes make decoders raise anything at all
        raise BadInputError(f"The image's header is broken ({_first_line(error)}).", hint=_HINT) from error
    width, height = image.size
    if width * height > max_pixels:
        raise TooLargeError(
            f"The image has {width * height / 1e6:.1f} megapixels ({width} x {height}); "
            f"at most {max_pixels / 1e6:.1f} are accepted.",
            hint="Send a smaller image.",
        )
    return image


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, *, needed_side: int | None = None) -> Image.Image:
    """Decode an image to upright RGB; transparency is laid over white.

    With `needed_side` (pixels) a JPEG much larger than that is decoded at 1/2, 1/4 or 1/8 scale, its short side
    staying at least twice `needed_side`. Raises as `open_image`, and BadInputError for a truncated file.
    """
    return decode_opened(open_image(data, max_pixels), needed_side=needed_side)


def decode_opened(image: ImageFile.ImageFile, *, needed_side: int | None = None) -> Image.Image:
    """What `decode_image` does after `open_image`, for callers that want the size as sent as well."""
    name = image.format or "image"
    try:
        if needed_side is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            side = needed_side * SCALED_DECODE_MARGIN
            image.draft(image.mode, (side, side))
        image.load()
        return _upright(_to_rgb(image), _orientation(image))
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise BadInputError(f"The {name} file is truncated or broken ({_first_line(error)}).", hint=_HINT) from error


def to_input(image: Image.Image | npt.NDArray[np.uint8], resolution: int, pre: Preprocessing) -> Tensor:
    """Float32 [3, R, R] with R = `resolution`: centre crop, antialiased bicubic resize, (x - mean) / scale.

    `image` is RGB: a Pillow image, or uint8 [H, W, 3]. The result's memory is channels last, as the networks want it.
    """
    picture = Image.fromarray(image, "RGB") if isinstance(image, np.ndarray) else image
    width, height = picture.size
    # Whole pixels: a crop between two pixels would blur the picture even where no resize is needed.
    side = max(1, round(pre.crop_fraction * min(width, height)))
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    box = (left, top, left + side, top + side)
    resized = picture.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    # One table look-up a byte does conversion, shift and scale at once.
    pixels = torch.from_numpy(_table(pre.mean, pre.scale)[np.asarray(resized)])
    return pixels.permute(2, 0, 1)


def needed_side(resolution: int, pre: Preprocessing) -> int:
    """The short side, in pixels, that an image needs so that its centre crop is not enlarged."""
    return int(np.ceil(resolution / pre.crop_fraction))


def _table(mean: float, scale: float) -> npt.NDArray[np.float32]:
    return ((np.arange(256, dtype=np.float32) - np.float32(mean)) / np.float32(scale)).astype(np.float32)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy() if isinstance(image, ImageFile.ImageFile) else image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 16-bit grey: Pillow's own conversion clips at 255 in place of scaling.
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")
    if image.has_transparency_data:
        front = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF leaves a picture that every viewer shows as stored: so do we
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _UPRIGHT.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".") if text else type(error).__name__
