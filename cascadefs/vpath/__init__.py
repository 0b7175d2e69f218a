"""Virtual paths: the names by which the past is reached, parsed and printed (SEMANTICS 2).

One path component goes in as bytes and comes out as the name it is about and what is asked of that name's history;
the other way round, a version or an instant is printed as the one canonical name everybody else prints. `component`
holds the grammar of a name, `instant` that of a time, `phrase` what a person types at a command line.

Nothing here knows the file system. Whether a literal entry of that name exists (it wins), whether the base has
history (without it the name is plain), what the clock says and where the stable frontier is are the caller's to ask.
Timestamps are integer microseconds since 1970-01-01T00:00:00Z.
"""

from __future__ import annotations

from cascadefs.vpath.component import (
    Condition,
    Deleted,
    Event,
    Historic,
    Malformed,
    Spec,
    Tag,
    Version,
    VersionBack,
    Versions,
    format_at,
    format_condition,
    format_version,
    parse,
    split_extension,
)
from cascadefs.vpath.instant import Ago, Instant, Now, Time, format_time, parse_time
from cascadefs.vpath.phrase import parse_instant

__all__ = [
    "Ago",
    "Condition",
    "Deleted",
    "Event",
    "Historic",
    "Instant",
    "Malformed",
    "Now",
    "Spec",
    "Tag",
    "Time",
    "Version",
    "VersionBack",
    "Versions",
    "format_at",
    "format_condition",
    "format_time",
    "format_version",
    "parse",
    "parse_instant",
    "parse_time",
    "split_extension",
]
