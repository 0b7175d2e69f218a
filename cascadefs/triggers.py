"""What scripts in `.cascade/watch/` import: `from cascadefs.triggers import watch`."""

from triggers.handler import watch

__all__ = ["watch"]
