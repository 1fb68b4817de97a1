"""Remove the metadata of JPEG files. The encoded image stays the same byte for byte."""

import re
from collections.abc import Iterator

_START, _SCAN, _END = 0xD8, 0xDA, 0xD9
_APP0, _APP14, _APP15, _COMMENT = 0xE0, 0xEE, 0xEF, 0xFE
# Markers without a length: TEM, and RST0 to RST7.
_ALONE = (0x01, *range(0xD0, 0xD8))
# Any number of 0xFF may precede the code of a marker. Inside a scan, 0xFF00 and restart markers are part of the scan.
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JFIF, _JFIF_BYTES = b"JFIF\0", 14
_ADOBE, _ADOBE_BYTES = b"Adobe", 12


def is_jpeg(data: bytes) -> bool:
    """Whether `data` starts like a JPEG file."""
    return data.startswith(bytes([0xFF, _START, 0xFF]))


def without_metadata(data: bytes) -> bytes:
    """Remove EXIF, XMP, profiles, comments, thumbnails and any data after the end from a JPEG file.

    It decodes to the same pixels: tables, scans, and the JFIF and Adobe headers, which define the colour encoding, are
    kept. EXIF orientation is removed; `pipeline.data.sequence_images` ignores it.

    Raises:
        ValueError: if `data` is not a JPEG file, or is truncated before the last scan.
    """
    if not is_jpeg(data):
        raise ValueError("not a JPEG file")
    parts = [bytes([0xFF, _START])]
    has_scan = False
    for marker, payload, scan in _segments(data):
        kept = _image_part(marker, payload)
        if marker == _END:
            parts.append(bytes([0xFF, _END]))
        elif kept is not None:
            parts += [bytes([0xFF, marker]), (len(kept) + 2).to_bytes(2, "big"), kept, scan]
        has_scan = has_scan or marker == _SCAN
    if not has_scan:
        raise ValueError("a JPEG file without an image")
    return b"".join(parts)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker, content and entropy-coded data of each segment. Only scans have the latter; the end has neither."""
    place = 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == _END:
            yield _END, b"", b""
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if length < 2 or place + length > len(data):
            raise ValueError("a truncated or damaged JPEG file")
        payload, place = data[place + 2 : place + length], place + length
        end = _END_OF_SCAN.search(data, place) if marker == _SCAN else None
        stop = place if marker != _SCAN else end.start() if end else len(data)
        yield marker, payload, data[place:stop]
        place = stop


def _image_part(marker: int, payload: bytes) -> bytes | None:
    """The content of a segment that decoding the image requires; None for metadata."""
    if marker == _APP0 and payload.startswith(_JFIF) and len(payload) >= _JFIF_BYTES:
        # The last two bytes give the size of an optional thumbnail, which follows them.
        return payload[: _JFIF_BYTES - 2] + b"\0\0"
    if marker == _APP14 and payload.startswith(_ADOBE):
        return payload[:_ADOBE_BYTES]
    return None if _APP0 <= marker <= _APP15 or marker == _COMMENT else payload
