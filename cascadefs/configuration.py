"""What the processes of a cluster are told: ``cluster.toml`` of its operator, ``node.toml`` of a node, ``mount.toml`` of a mount or client.

``cascadefs cluster`` writes all three; people change them with an editor. Paths in them are relative to the file that
names them. What is wrong is said with file, key and remedy, before anything is started. OPERATIONS has an example of each.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
)
from urllib.parse import urlsplit

import msgspec

from storage.errors import Unusable
from storage.membership.values import Address, Label, NodeName  # noqa: TC001  # msgspec reads the annotations

if TYPE_CHECKING:
    from pathlib import Path

    from storage.transport.verbs import Fabric

__all__ = [
    "CLUSTER",
    "MOUNT",
    "NODE",
    "Cluster",
    "Etcd",
    "Mount",
    "Node",
    "Transport",
    "check",
    "fabric",
    "load",
    "spell",
]

CLUSTER, NODE, MOUNT = "cluster.toml", "node.toml", "mount.toml"
"""What the files are called in the directories that ``cascadefs cluster`` writes."""

FILE_BYTES_MAX = 1024 * 1024

Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class Etcd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How etcd is reached: the table ``[etcd]``."""

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """``https://host:port`` of its members, the nearest first."""
    prefix: Annotated[str, msgspec.Meta(pattern="^/.*/$")] = "/cascadefs/"
    """What all keys begin with; another one for a second cluster on the same etcd."""
    timeout_s: Seconds = 1.5
    """How long one member of etcd may take for one answer; below the lease, so that another can be asked in time."""
    ca: str = ""
    """What signed the certificates of etcd."""
    certificate: str = ""
    key: str = ""
    """What etcd is shown, where it asks for certificates."""
    plain: bool = False
    """Talk to it without TLS, beyond this machine, too. Whoever can listen can then change the cluster."""


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``cluster.toml``: what an operator needs to make certificates and to speak with the authority."""

    cluster: str
    etcd: Etcd
    authority: str = "authority"
    """The directory with ``authority.crt`` and ``authority.key``; the key need not be where nodes run."""


class Transport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a node and other nodes reach each other: the table ``[transport]``. Mounts and programs always come by TCP.

    All but the first two are of verbs, and mean what `storage.transport.verbs.Fabric` says (docs/RDMA.md).
    """

    kind: Literal["tcp", "verbs"] = "tcp"
    fallback: Literal["", "tcp"] = ""
    """What is used where verbs cannot be, instead of being without a connection."""
    device: str = ""
    port: int = 1
    gid: str | int = ""
    mtu_bytes: int = 0
    ring_bytes: int = 1024 * 1024
    fetch_bytes: int = 4 * 1024 * 1024
    timeout_exponent: int = 14
    retry_count: int = 3
    traffic_class: int = 0
    polls_before_sleep: int = 4


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``node.toml``: one node."""

    cluster: str
    name: NodeName
    listen: Address
    """Where its links listen; ``0.0.0.0:7400`` for all interfaces."""
    etcd: Etcd
    advertise: tuple[Address, ...] = ()
    """Where others reach it, the best first; `listen` if none is given."""
    data: str = "data"
    """The directory of its shards."""
    credentials: str = "credentials"
    """The directory with ``identity.crt``, ``identity.key`` and ``authority.crt``."""
    labels: tuple[Label, ...] = ()
    lease_s: Annotated[float, msgspec.Meta(ge=2, le=600)] = 3.0
    """How long the others wait for this node when it says nothing; etcd grants no less than 2 s."""
    scrub_mib_per_s: Annotated[float, msgspec.Meta(ge=0, le=10_000)] = 4.0
    """How fast each log is read again to find damage; 0: not at all."""
    scrub_rest_s: Annotated[float, msgspec.Meta(gt=0, le=10_000_000)] = 86_400.0
    """From the end of one such reading to the next."""
    volatile_mib: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 0
    """What all shards of volatile pools here may hold together; 0: half of the machine's memory."""
    triggers: Literal["off", "owner", "root"] = "off"
    """Whose scripts run here, of the shards that this node leads: nobody's, those of users its user may run as, or root's."""
    log: str = ""
    """A file for the log; standard error if empty."""
    http: Literal[""] | Address = ""
    """Where a page for browsers is served; nowhere if empty. Beyond this machine it needs the next two."""
    http_certificate: str = ""
    http_key: str = ""
    """PEM that browsers trust for the name they ask for; a node's own certificate names no host."""
    http_names: tuple[str, ...] = ()
    """Under which names browsers ask for it, beside `localhost` and addresses; the first one is in the link."""
    prices: str = ""
    """A file that says what things cost, for the page."""
    transport: Transport = Transport()
    """How nodes reach each other."""


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``mount.toml``: a mount, or programs that connect."""

    cluster: str
    nodes: Annotated[tuple[Address, ...], msgspec.Meta(min_length=1)]
    """Some of the nodes; they tell of the others."""
    credentials: str = "credentials"
    """The directory with ``identity.crt``, ``identity.key`` and ``authority.crt``."""


S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T", Cluster, Node, Mount)

TABLES: dict[str, type[msgspec.Struct]] = {"etcd": Etcd, "transport": Transport}

PATHS = (
    *("data", "credentials", "authority", "log", "ca", "certificate", "key"),
    *("http_certificate", "http_key", "prices"),
)
"""Keys whose values are relative to the file."""

LOOPBACK = re.compile(r"127(\.\d{1,3}){3}|\[?::1\]?|localhost")


def load(path: Path, kind: type[T]) -> T:
    """Read a configuration; its paths are absolute then.

    Raises:
        Unusable: it cannot be read, or is not one; the message says file, key and remedy.
    """
    return _understand(path, _read(path), kind)


def check(path: Path, configuration: T) -> None:
    """Accept a configuration that is about to be written.

    Raises:
        Unusable: `load` would not take it.
    """
    _understand(path, tomllib.loads(spell(configuration)), type(configuration))


def _understand(path: Path, told: dict[str, Any], kind: type[T]) -> T:
    try:
        found = msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        raise Unusable(f"{path}: {_words(str(error), told, kind)}") from error
    directory = path.resolve().parent
    found = _absolute(found, directory)
    _check_etcd(path, found)
    if isinstance(found, Node):
        _check_node(path, found)
    return found


def spell(configuration: Cluster | Node | Mount) -> str:
    """A configuration as TOML, that `load` reads; defaults are left out."""
    tables: list[str] = []
    lines = []
    for key, value in _told(configuration):
        if isinstance(value, msgspec.Struct):
            tables += ["", f"[{key}]", *(f"{k} = {_spell(v)}" for k, v in _told(value))]
        else:
            lines.append(f"{key} = {_spell(value)}")
    return "\n".join([*lines, *tables, ""])


def _told(value: msgspec.Struct) -> list[tuple[str, Any]]:
    fields = msgspec.structs.fields(value)
    return [(f.name, getattr(value, f.name)) for f in fields if getattr(value, f.name) != f.default]


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_spell(item) for item in value)}]"
    # A JSON string, number or boolean is one of TOML's, but for DEL, which no path or address here has.
    return msgspec.json.encode(value).decode()


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise Unusable(
            f"{path}: {error.strerror}; name the file that `cascadefs cluster` wrote"
        ) from error
    if len(raw) > FILE_BYTES_MAX:
        raise Unusable(f"{path}: larger than a configuration can be; is it the right file?")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unusable(f"{path}: no TOML: {error}; mend it there") from error


def _words(text: str, told: dict[str, Any], kind: type[T]) -> str:
    """msgspec's complaint as key and remedy."""
    what, _, at = text.partition(" - at `$")
    key = at.rstrip("`").lstrip(".")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", what):
        known = [field.name for field in msgspec.structs.fields(TABLES.get(key, kind))]
        near = difflib.get_close_matches(unknown[1], known, n=1)
        remedy = f"do you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        return f"{_under(key, unknown[1])}: there is no such key; {remedy}"
    if missing := re.fullmatch(r"Object missing required field `(.*)`", what):
        return f"{_under(key, missing[1])}: is missing; add it"
    given = told
    for part in re.findall(r"[^.\[\]]+", key):
        given = given[int(part)] if isinstance(given, list) else given.get(part, {})
    if "matching regex" in what:
        what = "not of the form it must have"
    if choices := _choices(key, kind):
        return f"{key}: {given!r} is none of {', '.join(map(repr, choices))}; change it"
    return f"{key}: {what[0].lower()}{what[1:]}, and is {given!r}; change it"


def _choices(key: str, kind: type[T]) -> tuple[Any, ...]:
    """What a key may be, if it is one of a few things."""
    table, _, name = key.rpartition(".")
    fields = {field.name: field.type for field in msgspec.structs.fields(TABLES.get(table, kind))}
    told = fields.get(name)
    return get_args(told) if get_origin(told) is Literal else ()


def _under(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _absolute(found: S, directory: Path) -> S:
    changed: dict[str, Any] = {}
    for field in msgspec.structs.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, msgspec.Struct):
            changed[field.name] = _absolute(value, directory)
        elif field.name in PATHS and value:
            changed[field.name] = str(directory / value)
    return msgspec.structs.replace(found, **changed)


def _check_etcd(path: Path, found: Cluster | Node | Mount) -> None:
    if isinstance(found, Mount):
        return
    etcd = found.etcd
    for at, endpoint in enumerate(etcd.endpoints):
        key = f"etcd.endpoints[{at}]"
        try:
            parts = urlsplit(endpoint)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port
        except ValueError:
            whole = None
        if not whole or parts.path.strip("/") or parts.query:
            raise Unusable(f"{path}: {key}: {endpoint!r} is no end point; write https://host:2379")
        if (
            parts.scheme == "http"
            and not etcd.plain
            and not LOOPBACK.fullmatch(parts.hostname or "")
        ):
            raise Unusable(
                f"{path}: {key}: {endpoint!r} would be talked to without TLS; write https://, or set etcd.plain = true"
            )
    if bool(etcd.certificate) != bool(etcd.key):
        raise Unusable(f"{path}: etcd.certificate and etcd.key go together; give both or none")
    if etcd.certificate and not etcd.ca:
        raise Unusable(
            f"{path}: etcd.ca: is missing; name the file that signed etcd's certificates"
        )


def _check_node(path: Path, node: Node) -> None:
    told = [("listen", node.listen), *(("advertise", one) for one in node.advertise)]
    for key, address in [*told, *([("http", node.http)] if node.http else [])]:
        if int(address.rpartition(":")[2]) > 65535:
            raise Unusable(f"{path}: {key}: {address!r} has no such port; choose one below 65536")
    host = node.listen.rpartition(":")[0]
    if not node.advertise and host in ("0.0.0.0", "[::]"):
        raise Unusable(
            f"{path}: advertise: is missing; say where others reach a node that listens on {host}"
        )
    if (
        node.http
        and not node.http_certificate
        and not LOOPBACK.fullmatch(node.http.rpartition(":")[0])
    ):
        raise Unusable(
            f"{path}: http_certificate: is missing; beyond this machine the page is served over TLS only: name a "
            "certificate and http_key, or listen on 127.0.0.1"
        )
    if node.http_key and not node.http_certificate:
        raise Unusable(
            f"{path}: http_certificate: is missing; name the certificate that http_key is the key of, or leave http_key out"
        )
    if 2 * node.etcd.timeout_s > node.lease_s:
        raise Unusable(
            f"{path}: etcd.timeout_s: {node.etcd.timeout_s:g} s leave no time to ask a second member within lease_s = "
            f"{node.lease_s:g}; make it at most half of that"
        )
    _check_transport(path, node.transport)


def _check_transport(path: Path, transport: Transport) -> None:
    if transport.kind == "verbs":
        try:
            fabric(transport)
        except Unusable as error:
            raise Unusable(f"{path}: transport.{error}") from error
        return
    for key, _ in _told(transport):
        raise Unusable(
            f'{path}: transport.{key}: is for verbs; say kind = "verbs", too, or leave it out'
        )


def fabric(transport: Transport) -> Fabric:
    """What the table says of the RDMA device; an empty value is one that the transport chooses.

    Raises:
        Unusable: a value that cannot be; the message begins with the key.
    """
    from storage.transport.verbs import Fabric

    return Fabric(
        device=transport.device or None,
        port=transport.port,
        gid=None if transport.gid == "" else transport.gid,
        mtu_bytes=transport.mtu_bytes or None,
        ring_bytes=transport.ring_bytes,
        fetch_bytes=transport.fetch_bytes,
        timeout_exponent=transport.timeout_exponent,
        retry_count=transport.retry_count,
        traffic_class=transport.traffic_class,
        polls_before_sleep=transport.polls_before_sleep,
    )
