"""The front door: command line, daemon, FUSE, and POSIX semantics over the store."""

__version__ = "0.1.0"
