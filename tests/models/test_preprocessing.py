"""Images of every accepted form become the right input; every other sequence of bytes gets one clear error."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patchd.models.preprocessing import decode_image, needed_side, open_image, to_input
from patchd.policies.errors import BadInputError, PatchdError, TooLargeError
from patchd.policies.task import Preprocessing
from PIL import Image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photograph(photographs) -> Image.Image:
    return Image.open(photographs["china"]).convert("RGB")


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
def test_lossless_forms_give_back_the_pixels(photograph, form):
    options = {"lossless": True} if form == "WEBP" else {}
    image = decode_image(encoded(photograph, form, **options))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(photograph))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM"])
def test_other_forms_are_not_even_opened(photograph, form):
    with pytest.raises(BadInputError, match="not an image that can be read"):
        decode_image(encoded(photograph, form))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_pixel_mode_becomes_rgb(photograph, mode):
    if mode == "I;16":
        grey = np.asarray(photograph.convert("L")).astype(np.uint16) * 257
        source = Image.fromarray(grey)
        expected = np.asarray(photograph.convert("L").convert("RGB"))
    else:
        source = photograph.convert(mode)
        expected = np.asarray(source.convert("RGB"))
    form = "JPEG" if mode == "CMYK" else "PNG"
    image = decode_image(encoded(source, form))
    assert image.mode == "RGB"
    if form == "PNG":
        assert np.array_equal(np.asarray(image), expected)


def test_transparency_is_laid_over_white():
    image = decode_image(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG"))
    assert np.asarray(image).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).repeat(3).reshape(2, 3, 3) * 40, "RGB")
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that stores `upright` under each orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(image), np.asarray(upright))


def test_damaged_exif_leaves_the_image_as_stored(photograph):
    data = encoded(photograph, "JPEG", exif=b"Exif\0\0garbage that is no TIFF header")
    assert decode_image(data).size == photograph.size


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_bomb_is_refused_from_its_header_with_both_numbers():
    # Only a header, and a claim of 40 gigapixels: Pillow's own limit would have spoken first.
    data = _png_header(200_000, 200_000) + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(TooLargeError, match=r"40000\.0 megapixels \(200000 x 200000\); at most 40\.0"):
        decode_image(data)


def test_a_webp_bomb_is_refused_as_too_large_as_well():
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + (64_999).to_bytes(3, "little") * 2
    body = b"WEBP" + chunk + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    with pytest.raises(TooLargeError, match=r"over the 40\.0 megapixels .*4225000000 pixels"):
        decode_image(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_a_real_hundred_megapixel_image_is_refused_and_accepted_only_under_a_higher_limit():
    data = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    with pytest.raises(TooLargeError, match=r"100\.0 megapixels"):
        decode_image(data)
    assert open_image(data, 100_000_000).size == (10_000, 10_000)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_gets_one_clear_sentence(photograph, form, share):
    data = encoded(photograph, form)
    with pytest.raises(BadInputError) as caught:
        decode_image(data[: int(len(data) * share)])
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM"])
)
def test_no_bytes_raise_anything_but_our_errors(noise, magic):
    try:
        decode_image(magic + noise)
    except PatchdError as error:
        assert error.code in ("bad_input", "too_large")


def test_empty_bytes_are_named_as_such():
    with pytest.raises(BadInputError, match="empty"):
        decode_image(b"")


def test_a_large_jpeg_is_decoded_at_reduced_scale_and_gives_nearly_the_same_input(photograph):
    large = photograph.resize((3200, 2136), Image.Resampling.BICUBIC)
    data = encoded(large, "JPEG", quality=92)
    pre = Preprocessing()
    side = needed_side(224, pre)
    scaled = decode_image(data, needed_side=side)
    assert 2 * side <= min(scaled.size) < 2136
    exact, fast = to_input(decode_image(data), 224, pre), to_input(scaled, 224, pre)
    assert float((exact - fast).abs().mean()) < 0.04  # five grey levels; two ways of shrinking differ by no less


def test_a_crop_of_the_right_size_passes_pixels_through_unchanged():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (256, 341, 3), dtype=np.uint8)
    x = to_input(pixels, 224, Preprocessing())
    top, left = 16, 59
    expected = (pixels[top : top + 224, left : left + 224].astype(np.float32) - 127) / 128
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), expected.transpose(2, 0, 1))


def test_shift_scale_and_crop_are_the_tasks_own():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[35:65, 35:65] = 200  # the crop, and what the bicubic filter sees around it
    x = to_input(pixels, 32, Preprocessing(crop_fraction=0.2, mean=100, scale=50))
    assert torch.allclose(x, torch.full((3, 32, 32), 2.0))


def test_shrinking_is_antialiased():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 254
    x = to_input(stripes, 32, Preprocessing(crop_fraction=1))
    assert float(x[:, :, 2:-2].abs().max()) < 0.05  # grey everywhere: (127 - 127) / 128


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (31, 7)])
def test_tiny_images_still_make_an_input(size):
    image = decode_image(encoded(Image.new("RGB", size, (10, 20, 30)), "PNG"))
    x = to_input(image, 96, Preprocessing())
    assert x.shape == (3, 96, 96)
    assert torch.allclose(x[:, 0, 0], (torch.tensor([10.0, 20.0, 30.0]) - 127) / 128)


def test_the_input_lies_in_memory_as_the_networks_want_it(photograph):
    x = to_input(photograph, 96, Preprocessing()).unsqueeze(0)
    assert x.is_contiguous(memory_format=torch.channels_last)
