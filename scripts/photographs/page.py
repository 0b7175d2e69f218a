"""Pictures of the page: each view at two widths, in light and dark, of a farm on a mount of its own.

    scripts/pictures page [DIRECTORY]

Needs Chromium and Playwright. The mount and everything in it is taken away again.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import Page, sync_playwright

from scripts.photographs.farm import make_farm

if TYPE_CHECKING:
    from collections.abc import Iterator

CHROMIUM = "/usr/bin/chromium"
SETTLE_MS = 1500
FRAMES: dict[str, tuple[int, int, Any]] = {
    "wide": (1280, 860, "light"),
    "dark": (1280, 860, "dark"),
    "narrow": (390, 844, "light"),
}
PRICES = """\
currency = "EUR"
per_hour = { node = 0.18, run = 0.024, gib_memory = 0.006 }
per_month = { gib_disk = 0.02 }
"""


def cascadefs(*arguments: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "cascadefs.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def versions(root: Path, path: str) -> list[int]:
    """The instants of a file's versions, the oldest first."""
    import cascadefs as store

    with store.connect(root) as client:
        return [one.timestamp for one in client.versions(path)]


def shots(root: Path) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Name of a picture: where it is taken, what must be there first, and in which frames."""
    plan, rosa = versions(root, "farm/plan.md"), versions(root, "farm/frames/rosa.npy")
    then, before = f"#/files/farm/frames?at={rosa[3]}&file=rosa.npy", f"#/files/farm?at={plan[-2]}"
    return {
        "files": (then, "canvas", ("wide", "narrow", "dark")),
        "difference": (f"{before}&file=plan.md&tab=difference", ".lines tr", ("wide",)),
        "origin": (
            "#/files/farm?file=vet-list.md&tab=origin",
            ".lineage .run",
            ("wide", "narrow"),
        ),
        "triggers": ("#/triggers", ".runs li:nth-child(2)", ("wide", "narrow")),
        "store": ("#/store", ".spark polygon", ("wide",)),
        "sweep": ("#/sweep?in=sweep", ".rank li:nth-child(5)", ("wide",)),
    }


def photograph(page: Page, path: Path, where: str, awaited: str) -> None:
    """One view, when it has settled."""
    page.evaluate("where => { location.hash = where; }", where)
    page.wait_for_selector(awaited)
    page.wait_for_timeout(SETTLE_MS)
    page.evaluate("document.activeElement?.blur()")
    page.screenshot(path=path)


def main() -> None:
    """See the module."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cascadefs-pictures-") as name:
        home = Path(name)
        root, prices = home / "barn", home / "prices.toml"
        root.mkdir()
        prices.write_text(PRICES)
        triggers = "root" if Path(name).owner() == "root" else "owner"
        said = cascadefs(
            *("mount", root, "--data", home / "data", f"--triggers={triggers}"),
            *("--http", "127.0.0.1:0", "--prices", prices),
        )
        try:
            make_farm(root, pause_s=0.9)
            with weather(root):
                take(said.split()[-1], root, directory)
        finally:
            cascadefs("umount", root)


@contextlib.contextmanager
def weather(root: Path) -> Iterator[None]:
    """A sensor that writes while the pictures are taken."""
    over = threading.Event()

    def measure() -> None:
        count = 0
        while not over.wait(0.11 + 0.09 * math.sin(count / 30)):
            count += 1
            told = {"wind": round(4 + 3 * math.sin(count / 9), 1), "count": count}
            (root / "weather.json").write_text(json.dumps(told) + "\n")

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def take(link: str, root: Path, directory: Path) -> None:
    """All pictures."""
    wanted = shots(root)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for frame, (width, height, scheme) in FRAMES.items():
            size: Any = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1)
            page.on("console", lambda message: print("console:", message.text))
            page.goto(link)
            page.wait_for_selector(".entries li")
            for name, (where, awaited, frames) in wanted.items():
                if frame in frames:
                    path = directory / f"page-{name}-{frame}.png"
                    photograph(page, path, where, awaited)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
