"""`cascadefs` of a version to come: every message, and what a node says of itself, has fields that this version does not know.

python tests/cluster/newer.py serve --config ...
"""

from __future__ import annotations

import sys

import msgspec

from cascadefs.cli import main
from storage import wire
from storage.membership import keys, values

NEWS = {"since": "a version to come", "numbers": [1, 2, 3]}


class NewerEncoder:
    """Messages with one field more."""

    def __init__(self, encoder):
        self._encoder = encoder

    def encode(self, message):
        return msgspec.msgpack.encode(
            [*msgspec.msgpack.decode(self._encoder.encode(message)), NEWS]
        )


def encode_newer(value, encode=keys.encode):
    """What is kept in the authority of a node that lives, with keys nobody knows."""
    raw = encode(value)
    if not isinstance(value, values.Presence):
        return raw
    plain = msgspec.json.decode(raw)
    plain["stranded"] = [{**each, "newer": NEWS} for each in plain["stranded"]]
    return msgspec.json.encode({**plain, "newer": NEWS})


def become_newer():
    for module in list(sys.modules.values()):
        if getattr(module, "encode", None) is keys.encode and module is not keys:
            module.encode = encode_newer
    keys.encode = encode_newer
    wire._encoder = NewerEncoder(wire._encoder)


if __name__ == "__main__":
    become_newer()
    sys.argv[0] = "cascadefs"
    main()
