"""What a browser asks, and what it is answered: files of the page, questions about the store, bytes, commands.

Questions block, so each is answered on a worker thread, a few at a time. Paths are the store's own, from its root: there is
no way from here to a file of the machine. What users wrote is only ever sent as an attachment in a sandbox, with a type that
no browser runs.
"""

from __future__ import annotations

import errno
import json
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import trio

from cascadefs.page import difference
from cascadefs.page.gate import FILE_POLICY
from cascadefs.page.kind import TEXT_BYTES, kind_of, text_of, type_of
from cascadefs.page.lineage import graph_of
from cascadefs.page.message import BadRequest, Response, failure, json_response
from cascadefs.page.source import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from cascadefs.client import Content, Version
    from cascadefs.page.feed import Feed
    from cascadefs.page.message import Request
    from cascadefs.page.source import Source
    from cascadefs.page.timeline import Timeline

__all__ = ["Answers"]

_T = TypeVar("_T")

AT_ONCE: Final = 4
"""Questions about the store on their way: threads, and work it does for the page at a time."""

NAMES_MAX: Final = 2000
"""Of a directory, in one answer; `after` is then where the next begins."""

VERSIONS_MAX: Final = 500
"""Of a file, listed; the newest."""

BLOCK_BYTES: Final = 4 * 1024 * 1024
"""Of a file on its way to a browser."""

WORDS: Final = ("kill", "pause", "resume", "retry", "drop", "skip")
"""Commands that the page gives; `kill-all` is several."""

STATIC: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

HTTP_OF_ERRNO: Final = {
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.EISDIR: 400,
    errno.EINVAL: 400,
    errno.ENAMETOOLONG: 400,
    errno.EACCES: 403,
    errno.EIDRM: 410,
    errno.EAGAIN: 409,
    errno.ETIMEDOUT: 504,
}


class Answers:
    """See the module."""

    def __init__(self, source: Source, timeline: Timeline, feed: Feed) -> None:
        self._source = source
        self._client = source.client
        self._timeline = timeline
        self._feed = feed
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._files = _static()
        self._questions: dict[str, Callable[[dict[str, str]], Any]] = {
            "/api/about": self._about,
            "/api/tree": self._tree,
            "/api/versions": self._versions,
            "/api/moments": self._moments,
            "/api/file": self._file,
            "/api/difference": self._difference,
            "/api/why": self._why,
        }

    async def answer(self, request: Request) -> Response:
        """Answer somebody who may ask; never raises for what is asked."""
        try:
            return await self._answer(request)
        except BadRequest as error:
            return failure(400, str(error))
        except OSError as error:
            return failure(HTTP_OF_ERRNO.get(error.errno or 0, 502), error.strerror or str(error))

    async def _answer(self, request: Request) -> Response:
        path, asked = request.path, request.question()
        if request.method == "POST":
            if path != "/api/command":
                return failure(404, "there is no such command")
            return await self._in_thread(partial(self._command, _object(request)))
        if path in self._files:
            return self._files[path]
        if path == "/api/live":
            if self._feed.is_full:
                return failure(503, "too many look at this page")
            body = self._feed.follow(asked.get("sweep", "").strip("/"))
            return Response(200, body, "text/event-stream")
        if path == "/raw":
            return await self._raw(asked)
        if path in self._questions:
            question = self._questions[path]
            return await self._in_thread(lambda: json_response(question(asked)))
        return failure(404, "there is nothing here")

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    # --- questions, on worker threads --------------------------------------------------------------------------------

    def _about(self, _asked: dict[str, str]) -> dict[str, Any]:
        return {"name": self._source.name, "user": self._source.user, "now": self._client.now()}

    def _tree(self, asked: dict[str, str]) -> dict[str, Any]:
        path, at = _path(asked), _number(asked, "at")
        entries = self._client.list(path, at=at, after=asked.get("after", ""), limit=NAMES_MAX + 1)
        shown = entries[:NAMES_MAX]
        return {
            "path": path,
            "at": at,
            "after": shown[-1].name if len(entries) > len(shown) else None,
            "entries": [
                {
                    "name": one.name,
                    "is_directory": one.is_directory,
                    "version": one.version,
                    "timestamp": one.timestamp,
                    "size": one.size,
                    "mode": one.mode,
                }
                for one in shown
            ],
        }

    def _versions(self, asked: dict[str, str]) -> dict[str, Any]:
        path, at = _path(asked), _number(asked, "at")
        found = self._client.versions(path, limit=VERSIONS_MAX)
        if not found and at is not None:  # Its directory is gone now.
            found = self._client.versions(path, until=at, limit=VERSIONS_MAX)
        return {"path": path, "versions": [_version(one) for one in found]}

    def _moments(self, asked: dict[str, str]) -> dict[str, Any]:
        self._timeline.advance(1)
        return self._timeline.moments(_path(asked), _number(asked, "at"), self._client.now())

    def _file(self, asked: dict[str, str]) -> dict[str, Any]:
        found = self._content(asked, length=TEXT_BYTES)
        data = bytes(found.data)
        kind = kind_of(data)
        shown: dict[str, Any] = {"kind": kind, **_version(found.version)}
        if kind == "text":
            shown["text"] = text_of(data, is_whole=len(data) == found.version.size)
        elif kind == "bytes":
            shown["head"] = data[:512].hex()
        shown["is_whole"] = len(data) == found.version.size
        return shown

    def _difference(self, asked: dict[str, str]) -> dict[str, Any]:
        texts, kinds, versions = [], [], []
        for which in ("before", "after"):
            found = self._content(
                {"path": _path(asked), "version": asked.get(which, "")}, length=TEXT_BYTES
            )
            data = bytes(found.data)
            kinds.append(kind_of(data))
            texts.append(text_of(data, is_whole=False))
            versions.append(_version(found.version))
        is_text = kinds == ["text", "text"]
        is_whole = all(one["size"] <= TEXT_BYTES for one in versions)
        rows = difference.rows(*texts) if is_text and is_whole else None
        return {"kinds": kinds, "before": versions[0], "after": versions[1], "rows": rows}

    def _why(self, asked: dict[str, str]) -> dict[str, Any]:
        graph = graph_of(
            lambda path, version: self._client.why(path, version=version),
            _path(asked),
            _number(asked, "version"),
        )
        return graph._asdict()

    def _content(self, asked: dict[str, str], *, length: int, offset: int = 0) -> Content:
        return self._client.read(
            _path(asked),
            version=_number(asked, "version"),
            at=_number(asked, "at"),
            offset=offset,
            length=length,
        )

    # --- bytes -------------------------------------------------------------------------------------------------------

    async def _raw(self, asked: dict[str, str]) -> Response:
        """A version as a download; `show=1`: with the type of a picture, if it is one that a browser only draws."""
        first = await self._in_thread(partial(self._content, asked, length=BLOCK_BYTES))
        version, data = first.version, bytes(first.data)
        name = version.path.rpartition("/")[2].encode("utf-8", "surrogateescape")
        kind = type_of(data) if asked.get("show") else "application/octet-stream"
        headers = (
            ("Content-Security-Policy", FILE_POLICY),
            ("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name)}"),
        )
        if len(data) == version.size:
            return Response(200, data, kind, headers)
        whole = (*headers, ("Content-Length", str(version.size)))
        return Response(200, self._blocks(version, data), kind, whole)

    async def _blocks(self, version: Version, data: bytes) -> AsyncGenerator[bytes, None]:
        """The rest of a version, which never changes, block after block."""
        offset = 0
        while data:
            yield data
            offset += len(data)
            if offset >= version.size:
                return
            asked = {"path": version.path, "version": str(version.number)}
            read = partial(self._content, asked, length=BLOCK_BYTES, offset=offset)
            data = bytes((await self._in_thread(read)).data)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _command(self, told: dict[str, Any]) -> Response:
        word, name = (str(told.get(key, "")) for key in ("do", "name"))
        base = _path({"path": str(told.get("base", ""))})
        if not name or "\n" in name:
            raise BadRequest("say what it is about")
        try:
            if word == "kill-all":
                return json_response({"done": self._kill_all(base, name)})
            if word not in WORDS:
                raise BadRequest(f"there is no command {word!r}")
            self._source.command(base, f"{word} {name}")
        except Refused as error:
            return failure(409, str(error))
        return json_response({"done": 1})

    def _kill_all(self, base: str, binding: str) -> int:
        """End the runs of a binding; one that ended by itself meanwhile is no trouble."""
        running = self._source.status().get("triggers", {}).get("running", [])
        runs = [one["run"] for one in running if (one["base"], one["binding"]) == (base, binding)]
        done = 0
        for run in runs:
            try:
                self._source.command(base, f"kill {run}")
                done += 1
            except Refused:
                continue
        return done


def _static() -> dict[str, Response]:
    """What the browser runs, by its address: read once, and nothing that was not there then is ever served."""
    found = {}
    for file in (resources.files("cascadefs.page") / "static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in STATIC:
            found[f"/static/{file.name}"] = Response(200, file.read_bytes(), STATIC[suffix])
    return {**found, "/": found["/static/index.html"]}


def _version(version: Version) -> dict[str, Any]:
    return {
        "path": version.path,
        "version": version.number,
        "timestamp": version.timestamp,
        "size": version.size,
    }


def _path(asked: dict[str, str]) -> str:
    path = asked.get("path", "").strip("/")
    if "\0" in path or any(part in (".", "..") for part in path.split("/")):
        raise BadRequest("no path has such a part")
    return path


def _number(asked: dict[str, str], key: str) -> int | None:
    text = asked.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise BadRequest(f"{key} is no number")
    return int(text)


def _object(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise BadRequest("a command is JSON")
    try:
        told = json.loads(request.body)
    except (ValueError, RecursionError):
        raise BadRequest("a command is JSON") from None
    if not isinstance(told, dict):
        raise BadRequest("a command is an object")
    return told
