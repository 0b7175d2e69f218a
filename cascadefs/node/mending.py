"""Damage on a node's disk: found by scrub or by who reads, and put back as another node has it.

A frame is the same to the byte on every member and carries its own checksums, so a copy proves itself. In the thread of
the network's loop; disks are read and written on worker threads.
"""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

import trio

from cascadefs.node.links import Unreachable
from storage import wire
from storage.errors import Corruption
from storage.log import Log
from storage.member import MemoryLog
from storage.scrub import Scrub

if TYPE_CHECKING:
    from cascadefs.node.links import Links
    from storage.member import Member
    from storage.membership.contract import Authority

__all__ = ["SCRUB_REST_S", "Mender"]

SCRUB_RECORDS_MAX: Final = 2000
"""Read again in a second, whatever their size."""

SCRUB_REST_S: Final = 24 * 3600.0
"""From the end of one reading of a log to the next."""

_log = logging.getLogger("cascadefs.node")


class Mender:
    """See the module."""

    def __init__(self, node: str, links: Links, authority: Authority) -> None:
        self._node = node
        self._links = links
        self._authority = authority
        self._under_way: dict[tuple[int, int], trio.Event] = {}
        self._scrubs: dict[int, Scrub] = {}
        self._mended: dict[int, int] = {}
        self._given_up: dict[int, set[int]] = {}

    async def mend(self, member: Member, address: int) -> None:
        """Put back the record at an address, if it is damaged here, as another node has it.

        Raises:
            Corruption: nobody has it whole.
        """
        if isinstance(member.log, MemoryLog):
            raise Corruption(f"shard {member.shard}, {address}: let go; nothing volatile is mended")
        key = (member.shard, address)
        under_way = self._under_way.get(key)
        if under_way is not None:
            await under_way.wait()
            return
        self._under_way[key] = trio.Event()
        try:
            # Else somebody asked for what is not there, and no copy would change that.
            if not await trio.to_thread.run_sync(_is_whole, member, address):
                await self._put_back(member, address)
        finally:
            self._under_way.pop(key).set()

    async def _put_back(self, member: Member, address: int) -> None:
        said = "no other node has it"
        epoch = self._authority.view.epochs.get(member.shard)
        for name in epoch.members if epoch is not None else ():
            if name == self._node:
                continue
            try:
                why = await self._put_back_from(name, member, address)
            except (Unreachable, Corruption, OSError) as error:
                why = str(error)
            if why is None:
                return
            said = f"{name}: {why}"
        raise Corruption(f"shard {member.shard}: the record at {address} is damaged; {said}")

    async def _put_back_from(self, name: str, member: Member, address: int) -> str | None:
        """Why a node could not help; None if it did."""
        answer, parts = await self._links.get(name).ask(
            lambda request: wire.ReadFrame(request, member.shard, address)
        )
        if answer.errno == errno.ENODATA:
            member.log.left_out.add(address)  # Nobody will ever ask for it: no damage.
            return None
        if answer.errno or not parts:
            return answer.why
        async with member.rewriting:
            assert isinstance(member.log, Log)
            await trio.to_thread.run_sync(member.log.put_back, address, bytes(parts[0]))
        self._mended[member.shard] = self._mended.get(member.shard, 0) + 1
        _log.warning(
            "shard %d: the record at %d was damaged and is put back as node %s has it",
            member.shard,
            address,
            name,
        )
        return None

    async def scrub(self, member: Member, bytes_per_s: int, rest_s: float) -> None:
        """Read a replica's log again and again, and put back what is damaged, until cancelled.

        A damaged head hides what is behind it in its segment: where something was put back, it is read again without a rest.
        """
        while bytes_per_s:
            log = member.log
            assert isinstance(log, Log), "in memory nothing is read again"
            scrub = self._scrubs[member.shard] = Scrub(log)
            more = True
            mended = self._mended.get(member.shard, 0)
            while more and log is member.log:
                await trio.sleep(1.0)  # noqa: TID251  # So that it takes no more than its share of the disk.
                if member.failure is not None:
                    continue
                more = await trio.to_thread.run_sync(scrub.step, bytes_per_s, SCRUB_RECORDS_MAX)
                found, scrub.addresses = scrub.addresses, []
                for address in found:
                    await self._mend_found(member, address)
            if log is member.log and mended == self._mended.get(member.shard, 0):
                await trio.sleep(rest_s)  # noqa: TID251  # As above.

    async def _mend_found(self, member: Member, address: int) -> None:
        if not member.is_committed(address):
            return  # It may be overruled yet.
        given_up = self._given_up.setdefault(member.shard, set())
        try:
            await self.mend(member, address)
            given_up.discard(address)
        except Corruption as error:
            if address not in given_up:
                _log.error("scrub: %s", error)
            given_up.add(address)

    def status(self, shard: int) -> dict[str, object]:
        """Figures for people and programs, JSON-able: records put back, and those nobody has whole."""
        scrub = self._scrubs.get(shard)
        return {
            "mended": self._mended.get(shard, 0),
            "damaged": len(self._given_up.get(shard, ())),
            "scrub": scrub.status() if scrub is not None else None,
        }


def _is_whole(member: Member, address: int) -> bool:
    assert isinstance(member.log, Log)
    try:
        return member.log.verify(member.log.frame(address))
    except (OSError, Corruption):
        return False
