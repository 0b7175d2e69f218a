"""`cluster pools`: subtrees and their policies. Shards are only ever added; a directory that has a home keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cascadefs.cli.cluster.asking import Config, converse, described, etcd_of, founded
from cascadefs.cli.complaint import Complaint
from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.report import Column

if TYPE_CHECKING:
    from storage.membership.contract import Authority
    from storage.membership.values import Pool, Shard, View

__all__ = ["ROOT_POOL", "accepted", "register"]

ROOT_POOL = "root"

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Shards = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="How many; never fewer than there are.", show_default=False),
]
Replicas = Annotated[
    int | None, typer.Option(min=1, max=7, help="Nodes that hold each shard.", show_default=False)
]
ReplicasMin = Annotated[
    int | None,
    typer.Option(
        "--replicas-min", min=1, max=7, help="With fewer, writes pause.", show_default=False
    ),
]
Durability = Annotated[
    str | None,
    typer.Option(
        metavar="disk|memory",
        help="What a node must have done before a write counts.",
        show_default=False,
    ),
]
Affinity = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="What it finds in a directory's path is kept together.",
        show_default=False,
    ),
]
Spread = Annotated[
    int | None,
    typer.Option(
        min=0, max=64, help="Directories down to this level get a shard each.", show_default=False
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="WORD",
        help="What its nodes must have; once for each.",
        show_default=False,
    ),
]

_COLUMNS = [
    Column("pool"),
    Column("path"),
    Column("shards", right=True),
    Column("replicas", right=True),
    Column("at least", right=True),
    Column("durability"),
    Column("kept"),
    Column("spread", right=True),
    Column("affinity"),
    Column("labels"),
]


def register(group: typer.Typer) -> None:
    """Add these commands."""
    pools = typer.Typer(name="pools", help="Subtrees with a policy of their own.")
    pools.callback(invoke_without_command=True)(_listed)
    pools.command("list")(list_)
    pools.command("create")(create)
    pools.command("set")(set_)
    group.add_typer(pools)


def _listed(context: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        list_(config, as_json)


def list_(config: Config = None, as_json: AsJson = False) -> None:
    """The pools there are."""
    etcd, identity = etcd_of(config)

    async def look(authority: Authority) -> View:
        return founded(authority.view, identity)

    view = converse(etcd, look)
    rows = []
    for pool in sorted(view.pools.values(), key=lambda pool: pool.path):
        shards = _shards(view, pool)
        cells = [
            pool.name,
            pool.path,
            str(len(shards)),
            str(pool.replicas),
            str(pool.replicas_min),
            pool.durability,
            "newest" if pool.volatile else "all",
            str(pool.spread),
            pool.affinity,
            " ".join(pool.labels),
        ]
        document = {**msgspec.to_builtins(pool), "shards": [shard.shard for shard in shards]}
        rows.append((cells, document))
    report(as_json=as_json).table(_COLUMNS, rows)


def create(
    name: Name,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH", help="Seen from the root of the file system.", show_default=False
        ),
    ],
    shards: Shards = 1,
    replicas: Replicas = None,
    replicas_min: ReplicasMin = None,
    durability: Durability = None,
    volatile: Annotated[
        bool, typer.Option("--volatile", help="Keep only what is newest, in memory.")
    ] = False,
    affinity: Affinity = None,
    spread: Spread = None,
    label: Labels = None,
    config: Config = None,
) -> None:
    """Make a pool, with shards of its own. A directory at PATH must not exist yet: the pool is what mkdir makes there.

    Example: cascadefs cluster pools create scratch /scratch --replicas 1
    """
    asked = _asked(replicas, replicas_min, durability, affinity, spread, label)
    place: dict[str, Any] = {"name": name, "path": path.rstrip("/") or "/", "volatile": volatile}
    if volatile:
        place["durability"] = "memory"
    pool = accepted({**place, **asked})
    etcd, identity = etcd_of(config)

    async def make(authority: Authority) -> list[Shard]:
        view = founded(authority.view, identity)
        taken = next((known for known in view.pools.values() if known.path == pool.path), None)
        if name in view.pools or taken is not None:
            there = view.pools.get(name) or taken
            assert there is not None
            raise Complaint(
                f"pool {there.name}: has {there.path} already; change it with `cascadefs cluster pools set`"
            )
        return await _change(authority, view, None, pool, shards or 1)

    made = converse(etcd, make)
    typer.echo(f"Pool {name} at {pool.path} with {described(len(made), 'shard')}")


def set_(
    name: Name,
    shards: Shards = None,
    replicas: Replicas = None,
    replicas_min: ReplicasMin = None,
    durability: Durability = None,
    affinity: Affinity = None,
    spread: Spread = None,
    label: Labels = None,
    config: Config = None,
) -> None:
    """Change a pool. Replicas come and go by themselves; affinity, spread and new shards concern directories yet to be made.

    Example: cascadefs cluster pools set root --replicas 3 --replicas-min 2
    """
    asked = _asked(replicas, replicas_min, durability, affinity, spread, label)
    if not asked and shards is None:
        raise typer.BadParameter("say what to change, such as --replicas 3")
    etcd, identity = etcd_of(config)

    async def change(authority: Authority) -> list[Shard]:
        view = founded(authority.view, identity)
        old = view.pools.get(name)
        if old is None:
            raise Complaint(
                f"pool {name}: there is none; there are {', '.join(sorted(view.pools))}"
            )
        count = len(_shards(view, old))
        if shards is not None and shards < count:
            raise Complaint(
                f"pool {name}: has {described(count, 'shard')}, and what is in one cannot go to another; ask for more"
            )
        new = accepted({**msgspec.structs.asdict(old), **asked})
        if new.durability != old.durability:
            raise Complaint(f"pool {name}: its logs are for {old.durability}; make a new pool")
        return await _change(authority, view, old, new, shards or count)

    made = converse(etcd, change)
    typer.echo(f"Pool {name} changed" + (f", {described(len(made), 'shard')} more" if made else ""))


def accepted(told: dict[str, Any]) -> Pool:
    """The pool that was asked for, its values allowed and fitting together.

    Raises:
        Complaint: they do not.
    """
    from storage.membership.values import Pool
    from storage.placement import RuleError, check_rule

    try:
        pool = msgspec.convert(told, Pool)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at `$.")
        raise Complaint(
            f"pool {told['name']}: {at.rstrip('`')}: {what[0].lower()}{what[1:]}; choose another"
        ) from error
    if pool.volatile and pool.durability == "disk":
        raise Complaint(
            f"pool {pool.name}: a volatile pool is nowhere on a disk; say --durability memory"
        )
    if pool.volatile and pool.path == "/":
        raise Complaint(f"pool {pool.name}: / cannot be volatile; choose a directory below it")
    if pool.replicas_min > pool.replicas:
        raise Complaint(
            f"pool {pool.name}: {pool.replicas} replicas can never be {pool.replicas_min}; lower --replicas-min"
        )
    if "//" in pool.path or any(part in (".", "..") for part in pool.path.split("/")):
        raise Complaint(
            f"pool {pool.name}: {pool.path!r} is no plain path from the root; write /a/b"
        )
    try:
        check_rule(pool.affinity)
    except RuleError as error:
        raise Complaint(
            f"pool {pool.name}: --affinity: {error}; it is RE2, without back-references"
        ) from error
    return pool


def _asked(
    replicas: int | None,
    replicas_min: int | None,
    durability: str | None,
    affinity: str | None,
    spread: int | None,
    label: list[str] | None,
) -> dict[str, Any]:
    given = {
        "replicas": replicas,
        "replicas_min": replicas_min,
        "durability": durability,
        "affinity": affinity,
        "spread": spread,
        "labels": tuple(word for word in label if word) if label is not None else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _shards(view: View, pool: Pool) -> list[Shard]:
    return sorted((s for s in view.shards.values() if s.pool == pool.name), key=lambda s: s.shard)


async def _change(
    authority: Authority, view: View, old: Pool | None, new: Pool, count: int
) -> list[Shard]:
    """Put a pool, and give it as many shards; answers those that are new."""
    from storage import limits
    from storage.membership.contract import Change
    from storage.membership.values import Shard

    missing = count - (len(_shards(view, old)) if old is not None else 0)
    free = [number for number in range(limits.SHARDS_MAX) if number not in view.shards]
    if missing > len(free):
        raise Complaint(
            f"pool {new.name}: {len(free)} shards are left in this cluster; ask for fewer"
        )
    made = [Shard(number, new.name) for number in free[:missing]]
    changes = [Change(old, new)] if old != new else []
    changes += [Change(None, shard) for shard in made]
    if changes and not await authority.change(changes):
        raise Complaint(f"pool {new.name}: somebody else changed it just now; try again")
    return made
