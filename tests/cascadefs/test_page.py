"""The page over HTTP: who may ask, what is answered, and that nothing users wrote is ever run.

Goal: every rule of `cascadefs.page.gate` by itself and through a server; questions answered with the rights of one user.
Method: a store in memory, asked by a client of its own user, served on loopback and asked with httpx.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import stat
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import pytest
import trio
import trio.testing
from typer.testing import CliRunner

from cascadefs.cli import app
from cascadefs.client import Client
from cascadefs.client.operations import Operations
from cascadefs.machine import SystemClock
from cascadefs.node.page import Page
from cascadefs.page import Listening, Prices, Refused, link_of, parse_address, serve, token_at
from cascadefs.page.board import board, clustered, mounted
from cascadefs.page.connection import converse
from cascadefs.page.difference import rows
from cascadefs.page.feed import LOOKERS_MAX, Feed
from cascadefs.page.gate import CHANGE_HEADER, Gate
from cascadefs.page.kind import kind_of, type_of
from cascadefs.page.lineage import graph_of
from cascadefs.page.listening import loopback
from cascadefs.page.message import Request, Response
from cascadefs.page.sweep import Sweep, figure
from cascadefs.page.timeline import STEP_CHANGES, Timeline
from storage.errors import Unusable
from storage.transport import Identity as TransportIdentity
from storage.transport import Role
from storage.transport.certificates import Authority
from triggers.access import Identity

TOKEN = "t" * 43
HOST = {"host": "127.0.0.1:7480"}
OURS = {**HOST, "authorization": f"Bearer {TOKEN}"}

EVIL = b"<html><script>fetch('/api/command', {method: 'POST'})</script></html>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


class _Executor:
    def __init__(self, store, clock, uid):
        self.execute = Operations(store, clock, Identity(uid, uid)).execute

    def close(self):
        pass


class _Source:
    """A store as a page sees it; commands are written down."""

    name, user = "barn", "somebody"

    def __init__(self, client):
        self.client = client
        self.told = []
        self.running = []

    def status(self):
        return {"triggers": {"mode": "owner", "running": self.running, "bases": []}}

    def command(self, base, line):
        if line == "kill gone":
            raise Refused("no run gone is under way")
        self.told.append((base, line))


@pytest.fixture
def root(store, clock):
    return Client(_Executor(store, clock, 0), clock)


@pytest.fixture
def source(store, clock):
    return _Source(Client(_Executor(store, clock, 1000), clock))


@pytest.fixture
async def web(source, nursery):
    """A browser that has come by the link."""
    listening = Listening(host="127.0.0.1", port=0, names=("barn.example",))
    port = await nursery.start(serve, source, listening, TOKEN)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        answer = await client.get("/", params={"token": TOKEN})
        assert answer.status_code == 303
        yield client


# --- the gate ---------------------------------------------------------------------------------------------------------


def refusal(headers=OURS, method="GET", target="/api/tree"):
    answer = Gate(TOKEN, 7480, ["barn.example"], is_tls=False).turn_away(
        Request(method, target, headers)
    )
    return None if answer is None else answer.status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7480", None),
        ("localhost:9999", None),  # a tunnel's other end
        ("[::1]:7480", None),
        ("10.1.2.3", None),
        ("Barn.Example", None),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:7480", 421),
        ("localhost.evil.example", 421),
        ("", 421),
        ("127.0.0.1:7480,evil.example", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(host, status):
    assert refusal({**OURS, "host": host}) == status


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, None),
        ({"sec-fetch-site": "none"}, None),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:7480"}, None),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        (
            {
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
            403,
        ),
    ],
)
def test_another_origin_is_refused(told, status):
    assert refusal({**OURS, **told}) == status


def test_only_the_page_itself_may_be_opened_from_elsewhere():
    opened = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert refusal({**OURS, **opened, "sec-fetch-dest": "document"}, target="/") is None
    assert refusal({**OURS, **opened, "sec-fetch-dest": "iframe"}, target="/") == 403


def test_a_change_needs_the_token_and_the_header():
    assert refusal(HOST, "POST", "/api/command") == 401
    assert refusal(OURS, "POST", "/api/command") == 403
    assert refusal({**OURS, CHANGE_HEADER: "1"}, "POST", "/api/command") is None
    assert refusal({**OURS, CHANGE_HEADER: "1"}, "DELETE", "/api/command") == 405


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"authorization": "Bearer " + "u" * 43},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"cascadefs-7480={TOKEN}"},  # the cookie is not the token
        {"cookie": "cascadefs-7480="},
        {"cookie": f"other={TOKEN}"},
    ],
)
def test_who_brings_no_token_is_turned_away(told):
    assert refusal({**HOST, **told}) == 401


def test_the_link_gives_a_cookie_that_no_script_reads_and_loses_the_token():
    gate = Gate(TOKEN, 7480, [], is_tls=True)
    answer = gate.turn_away(Request("GET", f"/?token={TOKEN}", HOST))
    told = dict(answer.headers)
    assert (answer.status, told["Location"]) == (303, "/")
    cookie, *attributes = told["Set-Cookie"].split("; ")
    assert attributes == ["HttpOnly", "SameSite=Strict", "Path=/", "Secure"]
    assert TOKEN not in cookie
    assert gate.turn_away(Request("GET", "/", {**HOST, "cookie": f"a=b; {cookie}"})) is None
    assert gate.turn_away(Request("GET", "/static/page.js?token=" + TOKEN, HOST)).status == 401
    other = Gate("s" * 43, 7480, [], is_tls=True)
    assert other.turn_away(Request("GET", "/", {**HOST, "cookie": cookie})).status == 401


def test_opened_from_elsewhere_the_page_asks_for_itself_and_then_the_cookie_comes_along():
    gate = Gate(TOKEN, 7480, [], is_tls=False)
    elsewhere = {
        **HOST,
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert gate.turn_away(Request("GET", f"/?token={TOKEN}", elsewhere)).status == 303
    answer = gate.turn_away(Request("GET", "/", elsewhere))
    assert (answer.status, answer.body, answer.headers) == (200, b"", (("Refresh", "0; url=/"),))
    again = {**elsewhere, "sec-fetch-site": "same-origin"}
    assert gate.turn_away(Request("GET", "/", again)).status == 401  # and not for ever


# --- the server -------------------------------------------------------------------------------------------------------


async def test_every_answer_has_the_headers_that_keep_the_page_to_itself(web, root):
    root.put("a.txt", "x")
    for target in ("/", "/static/page.js", "/api/tree?path=", "/raw?path=a.txt", "/nothing"):
        told = (await web.get(target)).headers
        assert "default-src 'none'" in told["content-security-policy"], target
        assert "unsafe" not in told["content-security-policy"], target
        assert "frame-ancestors 'none'" in told["content-security-policy"], target
        assert told["x-content-type-options"] == "nosniff"
        assert told["x-frame-options"] == "DENY"
        assert told["referrer-policy"] == "no-referrer"
        assert told["cross-origin-resource-policy"] == "same-origin"
        assert told["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in told
        assert "server" not in told


async def test_nobody_is_answered_without_the_cookie(web):
    web.cookies.clear()
    for target in ("/", "/static/page.js", "/api/about", "/api/live", "/raw?path=a"):
        answer = await web.get(target)
        assert answer.status_code == 401, target
        assert "token" in answer.json()["error"]


async def test_the_page_has_no_script_or_style_in_its_markup(web):
    page = (await web.get("/")).text
    assert "<script>" not in page
    assert "style=" not in page
    assert " onclick" not in page


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("evil.html", EVIL, "application/octet-stream"),
        ("evil.svg", SVG, "application/octet-stream"),
        ("evil.png", EVIL, "application/octet-stream"),
        ("real.png", PNG, "image/png"),
    ],
)
async def test_what_users_wrote_is_an_attachment_in_a_sandbox(web, root, name, data, kind):
    root.put(name, data)
    answer = await web.get("/raw", params={"path": name, "show": "1"})
    assert answer.content == data
    assert answer.headers["content-type"] == kind
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.headers["content-disposition"].startswith("attachment")
    plain = await web.get("/raw", params={"path": name})
    assert plain.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "target",
    [
        "/static/../answers.py",
        "/static/%2e%2e/answers.py",
        "/../../etc/passwd",
        "//etc/passwd",
        "/static/",
        "/static/page.js%00",
        "/raw?path=../../etc/passwd",
        "/raw?path=/etc/passwd",
        "/raw?path=a/%2e%2e/b",
        "/api/tree?path=..",
        "/api/file?path=a%00b",
        "/api/file?path=.",
    ],
)
async def test_no_way_leads_to_the_files_of_the_machine(web, target):
    port = web.base_url.port
    stream = await trio.open_tcp_stream("127.0.0.1", port)  # httpx would tidy the path
    request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    async with stream:
        await stream.send_all(request.encode())
        answer = b"".join([data async for data in stream])
    assert answer.split()[1] in (b"400", b"404"), answer[:200]
    assert b"root:" not in answer


async def test_only_what_the_user_may_see_is_seen(web, root):
    with root.batch() as batch:
        batch.put("open/a", "x")
        batch.put("mine", "secret", mode=0o600)
    assert (await web.get("/api/file", params={"path": "open/a"})).json()["text"] == "x"
    for question in ("file", "why"):
        answer = await web.get(f"/api/{question}", params={"path": "mine"})
        assert answer.status_code == 403, question
        assert "secret" not in answer.text
    assert (await web.get("/raw", params={"path": "mine"})).status_code == 403
    differing = await web.get("/api/difference", params={"path": "mine", "before": 1, "after": 1})
    assert differing.status_code == 403


async def test_a_tree_and_a_file_at_an_instant(web, root):
    first = root.put("d/a", "one")
    root.put("d/b", "new")
    root.put("d/a", "two\n")
    root.delete("d/b")
    now = (await web.get("/api/tree", params={"path": "d"})).json()
    then = (await web.get("/api/tree", params={"path": "d", "at": first.timestamp})).json()
    assert [(one["name"], one["version"]) for one in now["entries"]] == [("a", 2)]
    assert [(one["name"], one["version"]) for one in then["entries"]] == [("a", 1)]
    file = (await web.get("/api/file", params={"path": "d/a", "at": first.timestamp})).json()
    assert (file["kind"], file["text"], file["version"]) == ("text", "one", 1)
    bytes_then = await web.get("/raw", params={"path": "d/a", "at": first.timestamp})
    assert bytes_then.content == b"one"
    listed = (await web.get("/api/versions", params={"path": "d/a"})).json()["versions"]
    assert [one["version"] for one in listed] == [1, 2]
    told = (
        await web.get("/api/difference", params={"path": "d/a", "before": 1, "after": 2})
    ).json()
    assert told["rows"] == [["-", 1, 0, "one"], ["+", 0, 1, "two"]]
    moments = (await web.get("/api/moments", params={"path": "d", "at": first.timestamp})).json()
    assert sum(moments["counts"]) == 4
    assert len(moments["near"]) == 4
    assert (moments["near"][0], moments["is_last"]) == (first.timestamp, True)


async def test_a_large_directory_comes_in_parts(web, root, monkeypatch):
    monkeypatch.setattr("cascadefs.page.answers.NAMES_MAX", 3)
    asked = []
    list_of = Client.list
    monkeypatch.setattr(
        Client, "list", lambda *one, **how: asked.append(how["limit"]) or list_of(*one, **how)
    )
    for number in range(7):
        root.put(f"d/{number}\udcff", "x")
    seen, after = [], ""
    while after is not None:
        part = await web.get(f"/api/tree?path=d&after={quote(os.fsencode(after))}")
        seen.append([one["name"][0] for one in part.json()["entries"]])
        after = part.json()["after"]
    assert seen == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert asked == [4, 4, 4], "no more is asked of the store than is shown, and one"


async def test_a_long_file_comes_whole_and_of_one_version(web, root):
    data = bytes(range(256)) * (9 * 4096)
    root.put("long", data)
    answer = await web.get("/raw", params={"path": "long"})
    assert answer.headers["content-length"] == str(len(data))
    assert answer.content == data


async def raw(port: int, request: str) -> bytes:
    """What is answered until the page hangs up."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request.encode())
        return b"".join([data async for data in stream])


async def test_what_one_connection_meets_ends_no_other(web, root, monkeypatch, caplog):
    port = web.base_url.port
    assert (await raw(port, "HEAD / HTTP/1.1\r\nHost: evil\r\n\r\n")).split()[1] == b"405"

    async def too_few(*_):
        yield b"the beginning"

    root.put("long", bytes(5 * 2**20))
    monkeypatch.setattr("cascadefs.page.answers.Answers._blocks", too_few)
    with pytest.raises(httpx.RemoteProtocolError):
        await web.get("/raw", params={"path": "long"})
    assert "a connection was given up" in caplog.text
    assert (await web.get("/api/about")).json()["name"] == "barn"


async def test_who_holds_connections_shuts_nobody_out(web, monkeypatch):
    monkeypatch.setattr("cascadefs.page.server.CONNECTIONS_MAX", 4)
    port = web.base_url.port
    refused = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    known = f"{refused[:-2]}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    assert (await raw(port, refused)).split()[1] == b"401"  # and was hung up on
    async with contextlib.AsyncExitStack() as held:
        for beginning in (b"", b"GET / HTTP/1.1\r\n", refused.encode()) * 8:
            stream = await held.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(beginning)
            assert (await raw(port, known)).split()[1] == b"200"


async def test_names_that_are_no_utf8_and_names_like_markup(web, root):
    for name in ("caf\udce9", "<b>&\"'.txt", "a b+c%20d", "näme"):
        root.put(name, "x")
        encoded = name.encode("utf-8", "surrogateescape").hex()
        quoted = "".join(f"%{encoded[at : at + 2]}" for at in range(0, len(encoded), 2))
        assert (await web.get(f"/raw?path={quoted}")).content == b"x"
        listed = json.loads((await web.get("/api/tree?path=")).content)
        assert name in [one["name"] for one in listed["entries"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"do": "kill", "base": "/farm", "name": "r"}, 200),
        ({"do": "kill", "base": "farm", "name": "gone"}, 409),
        ({"do": "kill", "base": "farm", "name": "a\nkill b"}, 400),
        ({"do": "remake", "base": "", "name": "x of now"}, 400),
        ({"do": "kill", "base": "../elsewhere", "name": "r"}, 400),
        ({"do": "kill", "base": "", "name": ""}, 400),
        ([], 400),
    ],
)
async def test_commands_are_few_and_of_one_line(web, source, body, status):
    answer = await web.post("/api/command", json=body, headers={CHANGE_HEADER: "1"})
    assert answer.status_code == status
    assert source.told == ([("farm", "kill r")] if status == 200 else [])


async def test_killing_all_ends_the_runs_of_one_binding(web, source):
    source.running = [
        {"run": "1", "base": "farm", "binding": "a.py:f"},
        {"run": "2", "base": "farm", "binding": "a.py:g"},
        {"run": "gone", "base": "farm", "binding": "a.py:f"},
        {"run": "3", "base": "farm", "binding": "a.py:f"},
    ]
    told = {"do": "kill-all", "base": "farm", "name": "a.py:f"}
    answer = await web.post("/api/command", json=told, headers={CHANGE_HEADER: "1"})
    assert answer.json() == {"done": 2}
    assert source.told == [("farm", "kill 1"), ("farm", "kill 3")]


async def test_a_form_and_a_request_without_json_change_nothing(web, source):
    form = await web.post("/api/command", data={"do": "kill", "name": "r"})
    assert form.status_code == 403
    plain = await web.post(
        "/api/command", content='{"do":"kill","name":"r"}', headers={CHANGE_HEADER: "1"}
    )
    assert plain.status_code == 400
    assert source.told == []


async def test_the_feed_reaches_a_browser(web, root, monkeypatch):
    monkeypatch.setattr("cascadefs.page.feed.LOOK_SECONDS", 0.01)
    said = b""

    async def news():
        """The next event; each comes as one chunk."""
        nonlocal said
        while b"\n\n" not in said:
            said += await stream.receive_some()
        line, _, said = said.partition(b"\n\n")
        return line

    stream = await trio.open_tcp_stream("127.0.0.1", web.base_url.port)
    async with stream:
        asked = f"GET /api/live?sweep=sweep HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        await stream.send_all(asked.encode())
        assert b"Content-Type: text/event-stream\r\n" in await news()
        told = json.loads((await news()).partition(b"data: ")[2])
        assert told["versions_per_s"] is None
        assert "sweep" in told["sweep"]["error"]
        root.put("sweep/1/loss", "0.5")
        while not told["latest"] or told["sweep"].get("lines") != 1:
            told = json.loads((await news()).partition(b"data: ")[2])
        assert told["latest"][0]["path"] == "sweep/1/loss"
        assert told["sweep"]["best"][0]["loss"] == 0.5


async def test_a_feed_goes_on_whatever_it_meets(source, nursery, autojump_clock, caplog):
    feed = Feed(source, Timeline(source.client), None)
    nursery.start_soon(feed.run)
    told = {"nodes": [{}]}  # without a state
    source.status = lambda: told
    async with contextlib.aclosing(feed.follow("sweep")) as events:
        await anext(events)

        async def until(is_there):
            while not is_there(json.loads((await anext(events))[6:])):
                pass

        for _ in range(2):
            await until(lambda news: "made a mistake" in news.get("error", ""))
        told.clear()
        await until(lambda news: news.get("nodes") == [])
    assert caplog.text.count("Traceback") == 1


async def pass_time(seconds):
    with trio.move_on_after(seconds):
        await trio.sleep_forever()


async def test_nobody_looks_and_nothing_is_looked_at(source, nursery, autojump_clock):
    feed = Feed(source, Timeline(source.client), None)
    nursery.start_soon(feed.run)
    await pass_time(10)
    assert feed.looks == 0
    async with contextlib.aclosing(feed.follow("")) as events:
        assert await anext(events) == b"retry: 1000\n\n"
        for _ in range(3):
            assert (await anext(events)).startswith(b"data: {")
    await pass_time(2)
    looks = feed.looks
    await pass_time(10)
    assert feed.looks == looks


async def test_a_feed_has_room_for_so_many(source):
    feed = Feed(source, Timeline(source.client), None)
    events = [feed.follow("") for _ in range(LOOKERS_MAX)]
    for one in events:
        await anext(one)
    assert feed.is_full
    for one in events:
        await one.aclose()
    assert not feed.is_full


async def test_a_page_that_fails_is_no_end_of_its_node(tmp_path, monkeypatch, caplog):
    async def fails(*_, task_status):
        task_status.started(1)
        raise KeyError("what nobody thought of")

    monkeypatch.setattr("cascadefs.node.page.serve", fails)
    settings = SimpleNamespace(
        name="n1", cluster="c", http="127.0.0.1:0", http_certificate="", http_names=(), prices=""
    )
    await Page(settings, SimpleNamespace(http=""), None, None, None).run(tmp_path)
    assert "there is no page any more" in caplog.text


async def test_over_tls_the_cookie_is_for_tls_only(source, nursery, tmp_path):
    signer = Authority.create("00c0ffee00c0ffee", now_ns=SystemClock().now_ns())
    node = TransportIdentity("00c0ffee00c0ffee", Role.NODE, "n1")
    signer.install(signer.issue(node, now_ns=SystemClock().now_ns()), tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "identity.crt", tmp_path / "identity.key")
    listening = Listening(host="127.0.0.1", port=0, tls=tls)
    port = await nursery.start(serve, source, listening, TOKEN)
    async with await trio.open_tcp_stream("127.0.0.1", port) as plain:
        await plain.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(trio.BrokenResourceError):
            assert b"HTTP" not in await plain.receive_some()
    trusting = ssl.create_default_context(cafile=tmp_path / "authority.crt")
    trusting.check_hostname = False
    stream = await trio.open_ssl_over_tcp_stream(
        "127.0.0.1", port, ssl_context=trusting, https_compatible=True
    )
    async with stream:
        asked = f"GET /?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        await stream.send_all(asked.encode())
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 303 ")
    assert b"; HttpOnly; SameSite=Strict; Path=/; Secure\r\n" in answer


# --- a connection -----------------------------------------------------------------------------------------------------


async def spoken(data: bytes, chunks: int = 1) -> bytes:
    """What a connection answers to some bytes, sent in pieces."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def answer(request):
        return Response(200, f"{request.method} {request.path} {len(request.body)}".encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, theirs, answer, {})
        size = max(1, len(data) // chunks)
        for at in range(0, len(data), size):
            await ours.send_all(data[at : at + size])
        await ours.send_eof()
        return b"".join([piece async for piece in ours])


async def test_requests_in_pieces_and_one_after_the_other(autojump_clock):
    one = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    told = await spoken(one * 2, chunks=40)
    assert told.count(b"HTTP/1.1 200") == 2
    assert told.count(b"POST /a 3") == 2


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 30_000 + b"\r\n\r\n", b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000, b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", b"400"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n" + b"a" * 70_000, b"405"),
    ],
)
async def test_what_is_no_request_is_told_so(data, status, autojump_clock):
    told = await spoken(data)
    assert told.split()[1] == status


async def test_a_slow_line_is_served_and_a_dead_one_is_not(autojump_clock):
    body = bytes(512 * 1024)

    async def answer(request):
        return Response(200, body)

    for pause_s, is_whole in ((20, True), (40, False)):
        ours, theirs = trio.testing.lockstep_stream_pair()
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(converse, theirs, answer, {})
            await ours.send_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while data := await ours.receive_some(64 * 1024):
                got += data
                await pass_time(pause_s)
        assert got.endswith(body) == is_whole


async def test_who_says_nothing_is_hung_up_on(autojump_clock):
    ours, theirs = trio.testing.memory_stream_pair()
    await converse(theirs, None, {})
    assert await ours.receive_some() == b""


# --- parts ------------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "page.token"
    token = token_at(path)
    assert len(token) == 43
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert token_at(path) == token
    assert token_at(None) != token_at(None)
    path.chmod(0o640)
    with pytest.raises(Unusable, match="chmod 600"):
        token_at(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(Unusable, match="holds no token"):
        token_at(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        token_at(path)


def test_addresses():
    assert parse_address("localhost:1") == ("localhost", 1)
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address(":80") == ("127.0.0.1", 80)
    assert parse_address("localhost") == ("localhost", 7480)
    for wrong in ("a:b", "a:70000", "a:-1"):
        with pytest.raises(ValueError, match="no port"):
            parse_address(wrong)
    assert all(map(loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(loopback, ("0.0.0.0", "10.0.0.1", "localhost.evil", "::")))
    assert link_of("https", "::1", 1, "t") == "https://[::1]:1/?token=t"


def test_kinds_are_what_the_bytes_say():
    assert kind_of(b"hello") == "text"
    assert kind_of("grün".encode()[:-3]) == "text"  # cut in the middle of a letter
    assert kind_of(b"\xff\xfe" * 10) == "bytes"
    assert kind_of(b"a\0b") == "bytes"
    assert kind_of(b"\x93NUMPY\x01\x00") == "array"
    assert kind_of(PNG) == "image"
    assert kind_of(b"BM" + bytes(40)) == "image"
    assert kind_of(b"BMI,weight\n22,70\n") == "text"
    assert type_of(SVG) == type_of(EVIL) == "application/octet-stream"


def test_differences_show_what_changed_with_some_lines_around():
    before = "".join(f"{n}\n" for n in range(30))
    after = before.replace("15\n", "fifteen\n")
    found = rows(before, after)
    assert found[0] == ("@", 12, 12, "")
    assert [row for row in found if row[0] in "+-"] == [("-", 16, 0, "15"), ("+", 0, 16, "fifteen")]
    assert len(found) == 1 + 3 + 2 + 3
    assert rows("same", "same") == []
    assert rows("a\n" * 6000, "a") is None


def test_a_lineage_goes_back_to_what_programs_wrote_and_ends():
    runs = {
        ("out", 1): ("r2", ["mid@v2"], ["model@v1", "absent@v0"]),
        ("mid", 2): ("r1", ["in@v1"], ["model@v1@latest"]),
        ("loop", 1): ("r3", ["loop@v1"], []),
    }

    class Version:
        def __init__(self, number):
            self.number, self.timestamp, self.size = number, 1, 2

    def why(path, version):
        if path == "in":
            raise PermissionError
        made = runs.get((path, version or 1))
        if made is None:
            return Version(version or 1), None
        run, triggers, reads = made
        told = {"run": run, "binding": "b", "base": "", "script": "s", "script_id": "0" * 32}
        return Version(version or 1), {
            **told, "triggers": triggers, "reads": reads, "attempt": 1, "hops": 0,
        }  # fmt: skip

    graph = graph_of(why, "out", None)
    assert set(graph.versions) == {"out@v1", "mid@v2", "model@v1", "in@v1"}
    assert not graph.versions["in@v1"]["known"]
    assert ("mid@v2", "run r2", "trigger") in graph.edges
    assert ("model@v1", "run r1", "read") in graph.edges
    assert graph.left_out == 1
    assert len(graph_of(why, "loop", 1).versions) == 1


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        (b"0.5\n", 0.5),
        (b"0.9\n0.7\n", 0.7),
        (b'{"loss": 0.25, "step": 3}', 0.25),
        (b"step 3 loss 1.5e-2", 0.015),
        (b"nan", None),
        (b"", None),
        (b'{"other": 1}', None),
        (b"1e999", None),
        (b"1" + b"0" * 400, None),
    ],
)
def test_a_loss_is_the_last_figure(data, loss):
    assert figure(data) == loss


def test_the_best_and_the_worst_of_a_sweep(root):
    for line in range(12):
        for step in range(3):
            root.put(f"sweep/{line:02}/loss", f"{(line - 3.9) ** 2 + 1 / (step + 1):.3f}\n")
    root.put("sweep/notes.txt", "no line")
    root.put("sweep/99/other", "no loss")
    sweep = Sweep(root, "sweep")
    told = sweep.look()
    assert told["lines"] == 12
    assert [line["name"] for line in told["best"]] == ["04", "03", "05", "02", "06"]
    assert [line["name"] for line in told["worst"]] == ["11", "10", "09", "08", "00"]
    assert told["best"][0]["curve"] == [1.01, 0.51, 0.343]
    root.put("sweep/11/loss", "0.001")
    assert sweep.look()["best"][0]["name"] == "11"


def test_a_timeline_knows_a_short_past_and_jumps_over_a_long_one(root, clock, monkeypatch):
    first = root.put("a", "x")
    root.put_many({f"d/{n}": "x" for n in range(2 * STEP_CHANGES)})
    timeline = Timeline(root)
    timeline.advance(1)
    assert timeline.first == first.timestamp
    moments = timeline.moments("", None, root.now())
    assert sum(moments["counts"]) == 2 * STEP_CHANGES + 1
    assert moments["since"] is None
    assert timeline.told == 0
    root.put("b", "x")
    assert timeline.advance(1)
    assert (timeline.told, timeline.latest(1)[0]["path"]) == (1, "b")
    root.put_many({f"e/{n}": "x" for n in range(STEP_CHANGES)})
    assert not timeline.advance(1)
    timeline.leap()
    assert timeline.latest(1) == []
    assert timeline.moments("", None, root.now())["since"] is not None
    monkeypatch.setattr("cascadefs.page.timeline.PAST_STEPS", 1)
    late = Timeline(root)
    late.advance(1)
    assert late.first == first.timestamp
    assert late.moments("", None, root.now())["since"] is not None


def test_prices(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(
        'currency = "EUR"\n[per_hour]\nnode = 3.6\nrun = 0.36\n[per_month]\ngib_disk = 2.628\n'
    )
    prices = Prices.load(path)
    running = [{"run": "1", "base": "f", "binding": "a"}] * 2
    binding = {"name": "a", "script": "s", "running": 2}
    base = {"path": "f", "bindings": [binding], "problems": {}}
    shard = {"disk_bytes": 2**30, "members": ["a", "b"]}
    nodes = [{"state": "alive"}, {"state": "away"}]
    standing = {
        "shards": [shard],
        "nodes": nodes,
        "triggers": {"running": running, "bases": [base]},
    }
    told = board(standing, prices, now=1, versions_per_s=None, is_more=False, latest=[])["cost"]
    assert told["parts"]["nodes"] == pytest.approx(0.001)
    assert told["parts"]["runs"] == pytest.approx(0.0002)
    assert told["parts"]["disk"] == pytest.approx(2e-6)
    assert told["bindings"] == {"f/a": pytest.approx(0.0002)}
    for wrong in ("currency = 3", 'currency = "EUR"\nper_day = {}', "currency"):
        path.write_text(wrong)
        with pytest.raises(Unusable, match="no table of prices"):
            Prices.load(path)


def test_a_mount_is_a_cluster_of_one():
    told = mounted({"store": {"records": 10, "records_durable": 7, "log_bytes": 5}}, "vm")
    assert told["shards"][0]["behind"] == 3
    assert told["pools"][0]["replicas"] == 1
    assert told["triggers"] == {"mode": "off"}


def test_shards_are_told_of_by_their_leaders():
    def said(node, role, last):
        figures = {"shard": 0, "role": role, "last_index": last, "committed": last}
        placed = {"shard": 0, "pool": "all", "leader": "b", "members": ["a", "b"], "is": "well"}
        return {"revision": 1, "shards": [figures], "cluster": {"shards": [placed]}, "node": node}

    told = clustered([said("a", "follower", 7), said("b", "leader", 9)])["shards"][0]
    assert (told["records"], told["behind"], told["leader"]) == (9, 2, "b")
    assert clustered([])["shards"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mount", "HERE", "--data", "HERE/data", "--http", "0.0.0.0:0"), "needs TLS"),
        (("mount", "HERE", "--data", "HERE/data", "--http", "a:b"), "has no port"),
        (("mount", "HERE", "--volatile", "--http", "localhost:0"), "not with --volatile"),
        (("page", "HERE", "--http", "10.0.0.1:1"), "--certificate"),
        (("page", "HERE", "--prices", "HERE/none"), "name a file with prices"),
        (("page", "HERE/mount.toml"), "mount.toml"),
        (("page", "HERE", "--certificate", "HERE/none.pem"), "name a file of PEM"),
        (("page", "HERE", "--certificate", "/dev/null", "--key", "/dev/null"), "no certificate"),
    ],
)
def test_a_page_that_cannot_be_is_said(tmp_path, arguments, said):
    given = [one.replace("HERE", str(tmp_path)) for one in arguments]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert done.exit_code != 0
    assert said in (f"{done.output}{done.exception}")
    assert list(tmp_path.iterdir()) == []
