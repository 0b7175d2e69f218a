"""How far a long command is: a line on stderr, for a person, and only if it takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["progress"]

PATIENCE_SECONDS = 1.0


@contextlib.contextmanager
def progress(doing: str, *, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show, while the block runs, how often what is yielded was called."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # Slow to import, and not needed off a terminal.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(doing, total=total)
    begun = bar.get_time()

    def step() -> None:
        bar.advance(task)
        if not bar.live.is_started and bar.get_time() - begun > PATIENCE_SECONDS:
            bar.start()

    try:
        yield step
    finally:
        bar.stop()
