"""What is in a file, as far as a page can show it: by its first bytes, never by what its writer says. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["TEXT_BYTES", "kind_of", "text_of", "type_of"]

TEXT_BYTES: Final = 256 * 1024
"""Of a text, shown and compared."""

DOWNLOAD: Final = "application/octet-stream"

PICTURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
"""What browsers draw and nothing else; SVG is a program, too, and not among them."""

NPY: Final = b"\x93NUMPY"


def type_of(data: bytes) -> str:
    """The media type of a picture, or that of a download."""
    for magic, kind in PICTURES:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:2] == b"BM" and data[6:10] == bytes(4):  # Else it is a text that begins so.
        return "image/bmp"
    return DOWNLOAD


def kind_of(data: bytes) -> str:
    """ "text", "image", "array" (of NumPy) or "bytes"."""
    if data.startswith(NPY):
        return "array"
    if type_of(data) != DOWNLOAD:
        return "image"
    if b"\0" in data:
        return "bytes"
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.end < len(data) - 3:  # Else a letter was cut in two.
            return "bytes"
    return "text"


def text_of(data: bytes, *, is_whole: bool) -> str:
    """For people; a letter that was cut in two is left out."""
    return data.decode("utf-8", "replace" if is_whole else "ignore")
