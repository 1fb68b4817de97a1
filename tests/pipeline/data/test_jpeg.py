"""JPEGs lose their metadata, and not a pixel."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.data.jpeg import is_jpeg, without_metadata

NAME = b"DOE JANE 1956"


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def named(image: Image.Image, **options: Any) -> bytes:
    """A JPEG with the name in its EXIF, its comment, its profile and after its end."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = NAME.decode(), 6
    return encoded(image, exif=exif, comment=NAME, icc_profile=NAME, **options) + NAME


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert image is not None
    return image


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 2}),
        ("RGB", {"progressive": True, "restart_marker_rows": 1}),
        ("RGB", {"subsampling": 0, "quality": 100}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_metadata_goes_and_pixels_stay(mode: str, options: dict[str, Any]) -> None:
    image = picture(mode)
    data = named(image, **options)
    assert data.count(NAME) == 4
    clean = without_metadata(data)
    assert NAME not in clean and b"Exif" not in clean
    np.testing.assert_array_equal(decoded(clean), decoded(data))
    assert clean.endswith(b"\xff\xd9") and len(clean) <= len(encoded(image, **options))
    assert Image.open(BytesIO(clean)).getexif() == {}


def test_a_file_without_metadata_stays_byte_for_byte() -> None:
    encoded_by_opencv = cv2.imencode(".jpg", np.asarray(picture()))[1].tobytes()
    assert without_metadata(encoded_by_opencv) == encoded_by_opencv
    adobe = encoded(picture("CMYK"))
    assert b"Adobe" in adobe and without_metadata(adobe) == adobe


def test_a_thumbnail_in_the_header_goes() -> None:
    plain = encoded(picture())
    place = plain.index(b"JFIF\0")
    pixels = NAME.ljust(3 * 6, b".")
    header = plain[place : place + 12] + bytes([3, 2]) + pixels
    data = plain[: place - 2] + (len(header) + 2).to_bytes(2, "big") + header + plain[place + 14 :]
    assert without_metadata(data) == plain


def test_fill_bytes_and_garbage_between_segments_are_skipped() -> None:
    plain = encoded(picture())
    place = plain.index(b"\xff\xdb")
    assert without_metadata(plain[:place] + NAME + b"\xff\xff" + plain[place:]) == plain


def test_a_picture_that_is_cut_off_stays_cut_off() -> None:
    whole = named(picture())
    assert without_metadata(whole[: -len(NAME) - 200]) == without_metadata(whole)[:-200]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", NAME])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        without_metadata(data)


def test_every_cut_is_refused_or_leaves_no_name() -> None:
    data = named(picture(), progressive=True)
    for length in range(len(data)):
        try:
            assert NAME[:6] not in without_metadata(data[:length])
        except ValueError as error:
            assert "JPEG" in str(error)


def test_a_jpeg_is_known_by_its_bytes() -> None:
    assert is_jpeg(encoded(picture()))
    assert not is_jpeg(cv2.imencode(".png", np.asarray(picture()))[1].tobytes())
