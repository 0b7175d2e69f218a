"""The page in a real browser, of a real mount whose scripts run: what people see, do by keyboard alone, and what others cannot.

Method: one mount with `--http`, one Chromium (Debian's, driven by Playwright) for all; each test has a page of its own, and ends
with a console without errors. Nothing waits for a time: Playwright waits for what must come to be, with a limit.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect, sync_playwright

from cascadefs import connect
from tests.mounted.conftest import cascadefs, mounts_below
from tests.mounted.test_triggers import MODE, install, wait_for

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 15_000
WIDE = {"width": 1280, "height": 860}
NARROW = {"width": 390, "height": 844}

CHAIN = """
import time
from cascadefs.triggers import watch

@watch("in/*", emit="mid/")
def first(event, ctx):
    ctx.emit(event.name, bytes(event.data).upper())

@watch("mid/*", emit="out/")
def second(event, ctx):
    ctx.emit(event.name, bytes(event.data) + bytes(ctx.get("model").data))

@watch("slow/*")
def slow(event, ctx):
    while True:
        time.sleep(1)
"""

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db0"
    "0000000049454e44ae426082"
)
"""One pixel."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    """A mount with a page, files with a past, and a chain of scripts that has run."""
    with mounts_below(tmp_path_factory.mktemp("page"), "auto") as make:
        mount = make(MODE, "--http", "127.0.0.1:0", mounted=False)
        where = ["--data", mount.data, *mount.options]
        mount.link = cascadefs("mount", mount.path, *where).stdout.split()[-1]
        mount.find_daemon()
        farm = mount.farm = mount.path / "farm"
        for below in ("in", "slow"):
            (farm / below).mkdir(parents=True)
        install(mount, "chain.py", CHAIN)
        (farm / "model").write_text("!")
        for text in ("one\ntwo\n", "one\ntwo\nthree\n", "one\n2\nthree\n"):
            (farm / "notes.txt").write_text(text)
        (farm / "dot.png").write_bytes(PNG)
        (farm / "evil.html").write_text("<script>document.title = 'evil'</script><h1>hello</h1>")
        (farm / "<img src=x onerror=alert(1)>").write_text("<script>alert(1)</script>")
        np.save(farm / "field.npy", np.arange(12, dtype=">i2").reshape(3, 4, order="F"))
        for content in (bytes(17 * 2**20), bytes([1]) * 17 * 2**20):
            np.save(farm / "long.npy", np.frombuffer(content, np.uint8))
        np.save(farm / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
        (farm / "cut.npy").write_bytes(b"\x93NUMPY\x01")
        (farm / "in/a").write_text("x")
        wait_for(lambda: (farm / "out/a").read_text() == "X!", "output")
        (farm / "late.txt").write_text("late")
        yield mount


@pytest.fixture(scope="module")
def context(farm):
    """A browser that came by the link."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport=WIDE)
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        first = context.new_page()
        first.goto(farm.link)
        assert "token" not in first.url
        first.close()
        yield context
        browser.close()


@pytest.fixture
def page(context, farm):
    """A fresh page; its console is read at the end."""
    said = []
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(farm.link.partition("?")[0])
    expect(page.locator("#pulse")).to_have_attribute("data-state", "live")
    yield page
    page.close()
    assert said == []


def go(page, where):
    page.evaluate("where => { location.hash = where; }", where)


def names(page):
    return page.locator(".entries .name")


def test_the_link_opens_the_page_and_loses_the_token(page, farm):
    assert page.evaluate("document.cookie") == ""  # no script can read it
    expect(page.locator("#where")).to_contain_text(farm.path.name)
    expect(names(page)).to_have_text(["farm"])


def test_the_slider_changes_the_tree(page):
    go(page, "#/files/farm")
    expect(names(page).filter(has_text="late.txt")).to_have_count(1)
    page.keyboard.press("t")
    page.keyboard.press("Home")
    expect(names(page)).not_to_contain_text(["late.txt"])
    expect(page.locator(".time .ago")).to_contain_text("ago")
    page.keyboard.press("n")
    expect(names(page).filter(has_text="late.txt")).to_have_count(1)
    page.keyboard.press("[")  # late.txt was the last change in the directory
    expect(names(page).filter(has_text="late.txt")).to_have_count(0)
    expect(names(page).filter(has_text="model")).to_have_count(1)


def test_a_large_directory_is_shown_in_parts(page, farm):
    with connect(farm.path) as store, store.batch() as batch:
        for number in range(2100):
            batch.put(f"farm/many/{number:04}", b"")
        batch.put("farm/many/zoo/x", b"")
    go(page, "#/files/farm/many")
    expect(names(page)).to_have_count(2000)
    expect(page.locator(".tree .note")).to_contain_text("The first 2,000 names")
    page.locator(".further").click()
    expect(names(page)).to_have_count(2101)
    expect(names(page).first).to_have_text("zoo")  # directories come first, of those that are here
    expect(page.locator(".further")).to_be_hidden()
    expect(page.locator(".tree .note")).to_be_empty()
    go(page, "#/files/farm/in")
    expect(names(page)).to_have_count(1)


def test_by_keyboard_alone_from_the_root_to_a_difference_of_then(page):
    press = page.keyboard.press
    expect(names(page).first).to_be_visible()
    press("l")
    press("Enter")
    row = page.locator(".entries a", has_text="notes.txt")
    expect(row).to_be_visible()
    press("l")
    for _ in range(20):
        if row.evaluate("row => row === document.activeElement"):
            break
        press("ArrowDown")
    press("Enter")
    expect(page.locator(".file .title")).to_have_text("notes.txt")
    expect(page.locator(".file .written")).to_have_text("one\n2\nthree")
    press("d")
    expect(page.locator(".lines .come .text")).to_have_text("2")
    press("[")
    press("[")
    expect(page.locator(".file .facts .version")).to_have_text("v1")
    press("]")
    expect(page.locator(".file .facts .version")).to_have_text("v2")
    expect(page.locator(".lines .come .text")).to_have_text("three")
    expect(page.locator(".versions .later b")).to_have_text("v3")
    press("n")
    expect(page.locator(".file .facts .version")).to_have_text("v3")
    press("2")
    expect(page.locator("h1")).to_have_text("Triggers")
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    press("Escape")
    expect(page.locator("#keys")).to_be_hidden()


def test_every_control_can_be_reached_by_tab(page):
    go(page, "#/files/farm?file=notes.txt")
    expect(page.locator(".file .title")).to_have_text("notes.txt")
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent).trim()"
            )
        )
    assert {"Time", "The change before", "Download", "Difference", "Origin", "Text"} <= reached


def test_differences_of_two_chosen_versions(page):
    go(page, "#/files/farm?file=notes.txt&tab=difference")
    expect(page.locator(".tally")).to_have_text("+1\u22121")
    page.select_option("#other", "1")
    expect(page.locator(".lines tr.come .text")).to_have_text(["2", "three"])
    expect(page.locator(".lines tr.gone .text")).to_have_text("two")


def test_pictures_and_arrays_are_drawn(page):
    go(page, "#/files/farm?file=dot.png")
    image = page.locator(".picture img")
    expect(image).to_be_visible()
    page.wait_for_function("document.querySelector('.picture img').naturalWidth === 1")
    go(page, "#/files/farm?file=field.npy")
    canvas = page.locator("canvas")
    expect(canvas).to_have_attribute("aria-label", "Array of 3 by 4, from 0 to 11")
    # In the order of Fortran and of other machines: 0 3 6 9 are the first row, so its last pixel is brighter than the one below the first.
    pixels = canvas.evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, 4, 3).data].filter((_, at) => at % 4 === 1)"
    )
    assert pixels[0] < pixels[4] < pixels[8] < pixels[1] < pixels[3] < pixels[11]


def test_arrays_that_are_long_or_cut_off_or_of_objects_are_said_to_be(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for file, said in (
        ("cut.npy", "not drawn here"),
        ("objects.npy", "not drawn here"),
        ("long.npy", "too long to be drawn here"),
        ("long.npy&tab=difference", "too long to compare here"),
    ):
        go(page, f"#/files/farm?file={file}")
        expect(page.locator(".file .body .note")).to_contain_text(said)
    assert not any("/raw" in url and "long.npy" in url for url in asked)


def test_a_download_has_the_bytes_of_then(page, farm):
    first = (farm.farm / "notes.txt@v1").read_bytes()
    go(page, "#/files/farm?file=notes.txt")
    page.locator(".versions a", has_text="v1").click()
    expect(page.locator(".file .facts .version")).to_have_text("v1")
    with page.expect_download() as waiting:
        page.get_by_text("Download").click()
    assert Path(waiting.value.path()).read_bytes() == first
    assert waiting.value.suggested_filename == "notes.txt"


def test_what_users_wrote_never_runs(page, farm):
    go(page, "#/files/farm")
    row = page.locator(".entries .name", has_text="<img")
    expect(row).to_have_text("<img src=x onerror=alert(1)>")
    row.click()
    expect(page.locator(".file .written")).to_have_text("<script>alert(1)</script>")
    with page.expect_download() as waiting:
        page.evaluate("location.href = '/raw?path=farm/evil.html&show=1'")
    assert b"hello" in Path(waiting.value.path()).read_bytes()
    assert page.title() != "evil"


def test_the_origin_of_a_version_is_drawn_and_leads_on(page, farm):
    go(page, "#/files/farm/out?file=a&tab=origin")
    expect(page.locator(".lineage .run .label")).to_have_text(["chain.py:first", "chain.py:second"])
    boxes = page.locator(".lineage .box .label")
    expect(boxes).to_have_count(4)
    assert sorted(boxes.all_text_contents()) == ["a", "a", "a", "model"]
    expect(page.locator(".lineage .trigger")).to_have_count(2)
    with connect(farm.path) as store:
        version, run = store.why("farm/out/a")
        assert (version.number, run["binding"], run["reads"]) == (
            1,
            "chain.py:second",
            ["model@v1"],
        )
        assert store.why("farm/in/a")[1] is None
    page.locator(".lineage a", has_text="farm/in").click()
    expect(page.locator(".crumbs")).to_contain_text("in")
    expect(page.locator(".origin .note")).to_contain_text("Written by a program")


def running(farm):
    told = json.loads((farm.path / ".cascade/status").read_bytes())["triggers"]
    return [one["paths"][0] for one in told["running"]]


@pytest.fixture
def slow_runs(farm):
    """Two runs that never end by themselves, unless they are made to."""
    made = []

    def begin(*files):
        for file in files:
            (farm.farm / "slow" / file).write_text("x")
            made.append(f"slow/{file}")
        wait_for(lambda: set(made) <= set(running(farm)), "run")

    yield begin
    with contextlib.suppress(OSError):
        for run in json.loads((farm.path / ".cascade/status").read_bytes())["triggers"]["running"]:
            cascadefs("trigger", "kill", run["run"], "--in", farm.farm, expect=None)


def test_buttons_end_one_run_and_all_runs_and_pause(page, farm, slow_runs):
    slow_runs("one", "two")
    go(page, "#/triggers")
    binding = page.locator("[data-binding='farm/chain.py:slow']")
    expect(binding.locator(".runs li")).to_have_count(2)
    binding.locator(".runs li", has_text="slow/one").get_by_role("button").click()
    wait_for(lambda: running(farm) == ["slow/two"], "end of the run")
    expect(binding.locator(".runs li")).to_have_count(1)
    binding.get_by_role("button", name="Kill 1 run").click()
    page.keyboard.press("Enter")  # the question's first answer
    wait_for(lambda: running(farm) == [], "end of all runs")
    expect(binding.locator(".figures .bad dd").last).to_have_text("2")  # dead letters
    binding.get_by_role("button", name="Pause").click()
    expect(binding.locator(".badge")).to_have_text("paused")
    binding.get_by_role("button", name="Resume").click()
    expect(binding.locator(".badge")).to_have_text("active")


def test_what_happens_shows_up_by_itself(page, farm):
    go(page, "#/files/farm")
    expect(names(page).filter(has_text="late.txt")).to_have_count(1)
    (farm.farm / "just now").write_text("x")
    expect(names(page).filter(has_text="just now")).to_have_count(1)
    for step, loss in enumerate((0.9, 0.5, 0.4)):
        for line in range(7):
            path = farm.path / f"sweep/{line}/loss"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{loss + line / 100 + step / 1000}\n")
    go(page, "#/sweep")
    expect(page.locator(".rank.best li b")).to_have_text(["0", "1", "2", "3", "4"])
    expect(page.locator(".rank.worst li b")).to_have_text(["6", "5"])
    (farm.path / "sweep/6/loss").write_text("0.01\n")
    expect(page.locator(".rank.best li b").first).to_have_text("6")
    go(page, "#/store")
    expect(page.locator(".tiles")).to_contain_text("frontier lag")
    expect(page.locator(".latest")).to_contain_text("sweep/6/loss")


def test_nothing_sticks_out_of_a_narrow_page(page):
    page.set_viewport_size(NARROW)
    for where, there in (
        ("#/files/farm", ".entries li"),
        ("#/files/farm?file=notes.txt", ".file .written"),
        ("#/files/farm?file=notes.txt&tab=difference", ".lines tr"),
        ("#/files/farm?file=field.npy", "canvas"),
        ("#/files/farm/out?file=a&tab=origin", ".lineage .run"),
        ("#/triggers", ".binding"),
        ("#/store", ".card td"),
        ("#/sweep", ".narrow > .note"),
    ):
        go(page, where)
        expect(page.locator(there).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, where


def test_it_is_light_or_dark_as_people_like_it(page):
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        red, green, blue = map(int, colour[4:-1].split(","))
        assert (red + green + blue < 384) == is_dark


def test_another_origin_can_neither_drive_nor_read_it(page, farm, slow_runs):
    slow_runs("kept")
    run = json.loads((farm.path / ".cascade/status").read_bytes())["triggers"]["running"][0]["run"]
    base = farm.link.partition("?")[0]
    script = f"""
        const told = JSON.stringify({{do: "kill", base: "farm", name: {json.dumps(run)}}});
        const tries = [
          fetch("{base}api/command", {{method: "POST", mode: "no-cors", credentials: "include", body: told}}),
          fetch("{base}api/command", {{method: "POST", credentials: "include", body: told,
                headers: {{"Content-Type": "application/json", "X-Cascadefs": "1"}}}}),
          fetch("{base}api/tree?path=", {{credentials: "include"}}),
        ];
        const form = document.createElement("form");
        form.method = "post"; form.action = "{base}api/command"; form.enctype = "text/plain"; form.target = "frame";
        const field = document.createElement("input"); field.name = told; form.append(field);
        const frame = document.createElement("iframe"); frame.name = "frame";
        document.body.append(frame, form); form.submit();
        const image = new Image(); image.src = "{base}raw?path=farm/dot.png&show=1"; document.body.append(image);
        Promise.allSettled(tries).then((all) => setTimeout(() => {{
          document.title = all.map((one) => one.status === "rejected" ? "refused" : one.value.type).join() + "," + image.naturalWidth;
        }}, 300));
    """

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<body><script>{script}</script>".encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        # The same machine on another port: same site, so the cookie goes along.
        other = page.context.new_page()
        other.goto(f"http://127.0.0.1:{server.server_port}/")
        other.wait_for_function("document.title !== ''")
        assert other.title() == "refused,refused,refused,0"
        # Nor can it be shown inside of another page.
        other.evaluate(
            "base => { const f = document.createElement('iframe'); f.src = base; document.body.append(f); }",
            base,
        )
        other.wait_for_timeout(300)
        assert all(
            "<nav" not in frame.content() for frame in other.frames if frame != other.main_frame
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert running(farm) == ["slow/kept"]
    go(page, "#/triggers")
    expect(page.locator(".runs li")).to_have_count(1)


def test_a_link_on_another_site_opens_it(page, farm):
    base = farm.link.partition("?")[0]
    other = page.context.new_page()
    other.goto(f"data:text/html,<a href='{base}'>there</a>")
    with other.expect_response(base) as first:
        other.click("a")
    assert "refresh" in first.value.headers  # the cookie did not come along
    expect(names(other)).to_contain_text(["farm"])
    other.close()


def test_only_its_owner_may_read_the_token(farm):
    told = json.loads((farm.path / ".cascade/status").read_bytes())
    token = Path(told["page"]["token"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert farm.link == f"{told['page']['url']}?token={token.read_text().strip()}"
    assert token.read_text().strip() not in json.dumps(told)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(told["page"]["url"], timeout=10)


def test_it_ends_with_its_mount(tmp_path):
    with mounts_below(tmp_path, "auto") as make:
        mount = make(mounted=False)
        said = cascadefs("mount", mount.path, "--data", mount.data, "--http", "127.0.0.1:0").stdout
        mount.find_daemon()
        assert not is_refused(said.split()[-1])
        mount.kill()
        wait_for(
            lambda: is_refused(said.split()[-1]), "end of the page of a daemon that was killed"
        )


def is_refused(link):
    try:
        urllib.request.urlopen(link, timeout=10).close()
    except urllib.error.HTTPError:
        return False  # somebody answers
    except urllib.error.URLError:
        return True
    except ConnectionError:
        return False  # it is just ending
    return False
