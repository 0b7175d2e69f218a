"""The commands that read the past."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands (being assembled)."""
