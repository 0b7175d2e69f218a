"""`cluster permits` and `revoke`: which certificates were issued, and which of them count no more.

They are listed in etcd as they are issued. Nodes hear of one that is revoked at once, and speak with nobody who shows it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cascadefs.cli.cluster.asking import Config, converse, etcd_of, founded
from cascadefs.cli.cluster.files import now_ns
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.report import Column

if TYPE_CHECKING:
    from storage.membership.contract import Authority
    from storage.membership.values import Certificate, View

__all__ = ["ending", "permits", "revoke", "standing", "superfluous"]

_COLUMNS = [
    Column("name"),
    Column("role"),
    Column("serial"),
    Column("speaks for"),
    Column("issued"),
    Column("expires"),
    Column("is"),
]

SERIAL = re.compile(r"[0-9a-f]{8,40}")

FORGET_US = 30 * 86400 * 10**6
"""How long after its end a certificate is listed."""

DAY_US = 86400 * 10**6
SOON_DAYS = 14


def permits(config: Config = None, as_json: AsJson = False) -> None:
    """Which certificates were issued, until when they hold, and which are revoked.

    One that was issued before there was this list is not in it, and is revoked by its serial number
    (openssl x509 -noout -serial -in identity.crt).
    """
    etcd, identity = etcd_of(config)

    async def look(authority: Authority) -> View:
        return founded(authority.view, identity)

    view = converse(etcd, look)
    now_us = now_ns() // 1000
    found = sorted(view.certificates.values(), key=lambda one: (*whom(one)[:2], one.issued_us))
    rows = []
    for one in found:
        name, role, uids = whom(one)
        document: dict[str, Any] = msgspec.to_builtins(one)
        document |= {"name": name, "role": role, "is": standing(one, now_us)}
        cells = [name, role, one.serial, uids, _day(one.issued_us), _day(one.expires_us)]
        rows.append(([*cells, document["is"]], document))
    report(as_json=as_json).table(_COLUMNS, rows)


def revoke(
    which: Annotated[
        str,
        typer.Argument(metavar="NAME|SERIAL", help="All of a name, or one.", show_default=False),
    ],
    role: Annotated[
        str,
        typer.Option(
            metavar="node|mount|client", help="Where several have the name.", show_default=False
        ),
    ] = "",
    older: Annotated[
        bool, typer.Option("--older", help="Not the one that was issued last.")
    ] = False,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="For whoever is turned away.", show_default=False)
    ] = "",
    config: Config = None,
) -> None:
    """Take a certificate back: connections with it end at once, and no node takes another. For good; `permit` issues a new one.

    Examples: cascadefs cluster revoke desk --why "lost with the notebook";
    cascadefs cluster add n1 ./n1 ...; (bring it there) cascadefs cluster revoke n1 --older
    """
    from storage.limits import CHANGES_MAX
    from storage.membership.contract import Change

    etcd, identity = etcd_of(config)

    async def tell(authority: Authority) -> list[Certificate]:
        view = founded(authority.view, identity)
        now_us = now_ns() // 1000
        olds = _meant(view, which, role, older=older)
        news = [msgspec.structs.replace(old, revoked_us=now_us, why=why) for old in olds]
        changes = [
            Change(view.certificates.get(old.serial), new)
            for old, new in zip(olds, news, strict=True)
        ]
        for at in range(0, len(changes), CHANGES_MAX):
            if not await authority.change(changes[at : at + CHANGES_MAX]):
                raise Complaint(f"{which}: somebody else changed it just now; try again")
        return news

    done = converse(etcd, tell)
    for one in done:
        name, whose, _ = whom(one)
        typer.echo(f"Revoked: {one.serial} of {whose} {name}")
    if any(whom(one)[1] == "node" for one in done):
        typer.echo(
            "What such a node shows to etcd is of etcd's authority: take that back there, too."
        )
    if not done:
        typer.echo(f"{which}: nothing is left to revoke")


def _meant(view: View, which: str, role: str, *, older: bool) -> list[Certificate]:
    """The certificates that are to be revoked and are not yet."""
    from storage.membership.values import Certificate

    listed, number = view.certificates, which.lower().lstrip("0")
    if number in listed:
        return [] if listed[number].revoked_us else [listed[number]]
    named = [one for one in listed.values() if whom(one)[0] == which]
    named = [one for one in named if role in ("", whom(one)[1])]
    roles = sorted({whom(one)[1] for one in named})
    if len(roles) > 1:
        raise Complaint(f"{which}: is the name of a {' and of a '.join(roles)}; say --role")
    if not named:
        if SERIAL.fullmatch(number):
            return [Certificate(number)]
        raise Complaint(
            f"{which}: no certificate of that name is listed; see `cascadefs cluster permits`, or give its serial number"
        )
    named.sort(key=lambda one: one.issued_us)
    return [one for one in (named[:-1] if older else named) if not one.revoked_us]


def whom(one: Certificate) -> tuple[str, str, str]:
    """Name, role, and for which users, in words."""
    from storage.transport import EVERYBODY, identity

    if not one.identity:
        return "-", "-", "-"
    try:
        who = identity.parse(one.identity)
    except ValueError:
        return "?", "?", one.identity
    ranges = (
        f"{r.first}-{r.first + r.count - 1}" if r.count > 1 else str(r.first)
        for r in who.uids.ranges
    )
    whom = "everybody" if who.uids == EVERYBODY else " ".join(ranges)
    return who.name, who.role.value, "itself" if who.role.value == "node" else whom


def standing(one: Certificate, now_us: int) -> str:
    """How a certificate is, in words."""
    if one.revoked_us:
        return f"revoked {_day(one.revoked_us)}" + (f": {one.why}" if one.why else "")
    left_us = one.expires_us - now_us
    if left_us <= 0:
        return "expired"
    return f"expires in {left_us // DAY_US} days" if left_us < SOON_DAYS * DAY_US else "good"


def ending(view: View, now_us: int) -> list[str]:
    """In words, whose last certificate ends soon, of mounts and programs; nodes say so themselves."""
    newest = {
        whom(one)[:2]: one
        for one in sorted(view.certificates.values(), key=lambda one: one.issued_us)
    }
    return [
        f"{role} {name}: its certificate {state}; issue another, or revoke it: cascadefs cluster permit"
        for (name, role), one in sorted(newest.items())
        if role != "node" and (state := standing(one, now_us)).startswith("expires")
    ]


def superfluous(view: View, now_us: int) -> list[Certificate]:
    """Certificates that nobody needs to know of any more, a few of them."""
    ended = (one for one in view.certificates.values() if one.expires_us)
    return [one for one in ended if one.expires_us + FORGET_US < now_us][:16]


def _day(time_us: int) -> str:
    import datetime

    if not time_us:
        return "-"
    return f"{datetime.datetime.fromtimestamp(time_us // 10**6, datetime.UTC):%F}"
