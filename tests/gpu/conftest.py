"""Tests that need a card are chosen by `-m gpu`, and left out otherwise: pytest says how many it deselected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "gpu" in config.option.markexpr:
        return
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    config.hook.pytest_deselected(items=ours)
    items[:] = [item for item in items if item not in ours]
