"""``python -m cascadefs.cli``: the same as ``cascadefs``."""

from cascadefs.cli import main

main()
