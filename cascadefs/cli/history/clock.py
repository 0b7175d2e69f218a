"""The clock and the zone of the person at the keyboard.

Commands take both as values; only the functions typer calls come here.
"""

from __future__ import annotations

import datetime

__all__ = ["LocalZone", "now_us"]

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def now_us() -> int:
    """Microseconds since the epoch by this machine's clock, which is the mount's too."""
    return (datetime.datetime.now(datetime.UTC) - _EPOCH) // datetime.timedelta(microseconds=1)


class LocalZone(datetime.tzinfo):
    """Local time by TZ or /etc/localtime, with the offset of each moment (an offset of now is wrong across summer)."""

    def utcoffset(self, when: datetime.datetime | None) -> datetime.timedelta | None:
        """The offset at `when`; a skipped time counts as before the gap, of a repeated one `fold` tells (PEP 495)."""
        if when is None:
            return None
        naive = when.replace(tzinfo=None)
        seconds = naive.replace(tzinfo=datetime.UTC).timestamp() - naive.timestamp()
        return datetime.timedelta(seconds=round(seconds))

    def fromutc(self, when: datetime.datetime) -> datetime.datetime:
        """The local time of `when`, which is in UTC but says it is local (the protocol of tzinfo)."""
        return when.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=self)

    def dst(self, when: datetime.datetime | None) -> datetime.timedelta | None:
        """Unknown: nobody here asks."""
        return None

    def tzname(self, when: datetime.datetime | None) -> str | None:
        """Unknown: nobody here asks."""
        return None
