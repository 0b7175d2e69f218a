"""A certificate that is renewed while its process runs: noticed on the disk, checked, and handed over; and one that was not, told of.

Whoever renews it lays the new files in the place of the old ones (`Authority.install`, rsync). In between they do not belong
together; that passes, and is said only if it stays.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

import trio

from storage.errors import Unusable
from storage.transport.certificates import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from storage.clock import Clock

__all__ = ["EXPIRES_SOON_S", "renew"]

LOOK_S: Final = 2.0
"""Between two looks whether there is another certificate."""

EXPIRES_SOON_S: Final = 14 * 86400
"""A certificate that lives no longer is told of."""

SAY_S: Final = 86400.0
"""Between two words about that in the log."""

_log = logging.getLogger(__name__)


async def renew(
    credentials: Credentials, clock: Clock, show: Callable[[Credentials], None]
) -> NoReturn:
    """Have `show` called with each certificate that takes the place of this one and says the same of whom it is; until cancelled.

    `show` may raise OSError and ssl.SSLError, where the files have changed again; that is tried anew.
    """
    said, said_at, wrong = "", -SAY_S, 0
    while True:
        left_s = credentials.expires_s - clock.now_ns() // 10**9
        if left_s < EXPIRES_SOON_S and trio.current_time() >= said_at + SAY_S:
            said_at = trio.current_time()
            _log.warning("the certificate in %s %s", credentials.directory, _ends(left_s))
        await trio.sleep(LOOK_S)  # noqa: TID251  # Files tell nobody.
        try:
            found = await trio.to_thread.run_sync(_load, credentials, clock.now_ns())
            if found is not None:
                show(found)
                credentials, said_at = found, -SAY_S
                _log.info("the certificate %s is shown from now on", found.identity.serial)
            said, wrong = "", 0
        except (Unusable, OSError, ssl.SSLError) as error:
            wrong += 1
            if wrong > 1 and str(error) != said:  # The first time, they may be on their way.
                said = str(error)
                _log.error("the certificate is not renewed: %s", said)


def _load(old: Credentials, now_ns: int) -> Credentials | None:
    """What lies there now; None if that is the old one."""
    found = Credentials.load(old.directory, now_ns=now_ns)
    if found.identity.serial == old.identity.serial:
        return None
    if found.identity != old.identity:
        raise Unusable(
            f"{old.directory} has a certificate of {found.identity}, other than it was for {old.identity}: start again with it"
        )
    return found


def _ends(left_s: int) -> str:
    what = f"expires in {left_s // 86400} days" if left_s > 0 else "has expired"
    return f"{what}: issue another (docs/OPERATIONS.md, Certificates)"
