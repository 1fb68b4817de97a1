"""JPEG files lose their metadata and keep their pixels."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.data.jpeg import is_jpeg, without_metadata

NAME = b"DOE JANE 1956"


def random_image(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    return Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def named(image: Image.Image, **options: Any) -> bytes:
    """A JPEG with the name in its EXIF data, comment, colour profile and after its end."""
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
def test_metadata_is_removed_and_pixels_are_kept(mode: str, options: dict[str, Any]) -> None:
    image = random_image(mode)
    data = named(image, **options)
    assert data.count(NAME) == 4
    clean = without_metadata(data)
    assert NAME not in clean and b"Exif" not in clean
    np.testing.assert_array_equal(decoded(clean), decoded(data))
    assert clean.endswith(b"\xff\xd9") and len(clean) <= len(encoded(image, **options))
    assert Image.open(BytesIO(clean)).getexif() == {}


def test_a_file_without_metadata_is_unchanged() -> None:
    encoded_by_opencv = cv2.imencode(".jpg", np.asarray(random_image()))[1].tobytes()
    assert without_metadata(encoded_by_opencv) == encoded_by_opencv
    adobe = encoded(random_image("CMYK"))
    assert b"Adobe" in adobe and without_metadata(adobe) == adobe


def test_a_thumbnail_in_the_header_is_removed() -> None:
    plain = encoded(random_image())
    place = plain.index(b"JFIF\0")
    pixels = NAME.ljust(3 * 6, b".")
    header = plain[place : place + 12] + bytes([3, 2]) + pixels
    data = plain[: place - 2] + (len(header) + 2).to_bytes(2, "big") + header + plain[place + 14 :]
    assert without_metadata(data) == plain


def test_fill_bytes_and_garbage_between_segments_are_skipped() -> None:
    plain = encoded(random_image())
    place = plain.index(b"\xff\xdb")
    assert without_metadata(plain[:place] + NAME + b"\xff\xff" + plain[place:]) == plain


def test_a_truncated_image_stays_truncated() -> None:
    whole = named(random_image())
    assert without_metadata(whole[: -len(NAME) - 200]) == without_metadata(whole)[:-200]


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", NAME])
def test_a_file_without_an_image_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError, match="JPEG"):
        without_metadata(data)


def test_a_file_truncated_anywhere_is_rejected_or_loses_its_metadata() -> None:
    data = named(random_image(), progressive=True)
    for length in range(len(data)):
        try:
            assert NAME[:6] not in without_metadata(data[:length])
        except ValueError as error:
            assert "JPEG" in str(error)


def test_a_jpeg_is_recognised_by_its_bytes() -> None:
    assert is_jpeg(encoded(random_image()))
    assert not is_jpeg(cv2.imencode(".png", np.asarray(random_image()))[1].tobytes())
