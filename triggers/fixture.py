"""The pytest fixture `cascade`: say `pytest_plugins = ["triggers.fixture"]` in a conftest.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from triggers.testing import Cascade

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["cascade", "make_cascade"]


@pytest.fixture
def make_cascade() -> Callable[..., Cascade]:
    """Make stores in memory with triggers; takes what `Cascade` takes."""
    return Cascade


@pytest.fixture
def cascade() -> Cascade:
    """A store in memory with triggers."""
    return Cascade()
