"""What can be chosen of replication, and its bounds; relations between them are asserted."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["BATCH_FRAMES_MAX", "BATCH_PARTS_MAX", "CANDIDATES_MAX", "SESSIONS_MAX", "Options"]

BATCH_FRAMES_MAX: Final = 512
"""Frames in one `Append`: a message then takes a millisecond or so to make and to take in."""

BATCH_PARTS_MAX: Final = 1024
"""Payload buffers in one `Append`, what a message of `storage.wire` holds; also what one writev takes."""

CANDIDATES_MAX: Final = 64
"""Frontier candidates that wait for promises; while there are more, the last one is moved on instead."""

SESSIONS_MAX: Final = 65_536
"""Clients whose last number is kept here; of those before, the state machine knows (100 bytes each)."""


class Options(msgspec.Struct, frozen=True):
    """How a replica replicates. The same on all members of a shard, at least `durable`."""

    durable: bool = False
    """A member has a frame when its disk has it; else as soon as it is appended."""
    replicas_min: int = 1
    """In an epoch with fewer members the leader takes no proposals."""
    heartbeat_ms: int = 200
    """An idle leader says so this often; also how soon a lost message is noticed."""
    resend_ms: int = 1000
    """A member that should have acknowledged and has not for so long is asked what it holds."""
    silence_ms: int = 1000
    """Who has not been heard of for so long is reported (`Replica.silent`)."""
    window_bytes: int = 16 * 1024 * 1024
    """Unacknowledged bytes, for a member and altogether; above, `propose` answers FULL."""
    window_frames: int = 16_384
    """Unacknowledged frames, likewise."""
    batch_bytes: int = 1040 * 1024
    """An `Append` is full at so many bytes, a MiB of a file's content with its records; one frame always goes."""
    read_bytes: int = 256 * 1024
    """Asked of the log in one `Wanted`, for a member that lags."""
    caught_up_bytes: int = 1024 * 1024
    """A learner that lacks no more than this may be taken into the next epoch."""
    bound_ahead_ms: int = 2000
    """How far ahead the promise that survives a restart goes: it is written half as often, and stamps after a restart of all
    members may be so far in the future."""
    clock_ahead_max_ms: int = 60_000
    """A proposal whose author has seen a stamp further ahead of the leader's clock is not taken (yet)."""

    def __post_init__(self) -> None:
        assert self.replicas_min >= 1
        assert 0 < self.heartbeat_ms < self.silence_ms
        assert self.heartbeat_ms < self.resend_ms
        assert self.read_bytes <= self.window_bytes
        assert self.batch_bytes <= self.window_bytes
