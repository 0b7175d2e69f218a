"""Goal: every message comes out as it went in, and nothing else comes out.

Method: one of each kind and its parts; then every cut, every flipped byte, numbers that are none.
"""

import contextlib
from random import Random

import msgspec
import pytest

from storage import wire
from storage.limits import METADATA_BYTES_MAX, PAYLOAD_BYTES_MAX
from storage.wire import Malformed, Place, Record

RECORD = Record(7, 2**50, 4096, 2**64 - 1, 5, 6, b"metadata")
MESSAGES = [
    (wire.Hello(), []),
    (wire.Welcome(1, "n1"), []),
    (wire.Refusal("no"), []),
    (wire.Subscribe(1, 2, 3, 2**64 - 1), []),
    (wire.Unsubscribe(1), []),
    (wire.Taken(1, 2), []),
    (wire.Records(1, [RECORD, RECORD._replace(metadata=b"")], 3, 4, 5), []),
    (wire.Stranger(1, 2), []),
    (wire.Epoch(1, 2, "n1", ["n1", "n2"]), []),
    (wire.Propose(1, 2, [(1, 3, b"a"), (2, 0, b"b"), (3, 2, b"c")], 9), [b"abc", b"de"]),
    (wire.Expecting(1, 2), []),
    (wire.Rejected(1, 2, 3, 28, "full"), []),
    (wire.AskFrontier(1, 2), []),
    (wire.WaitDurable(1, 2), []),
    (wire.ReadPayload(1, 2, 3, 4, 5), []),
    (wire.ReadFrame(1, 2, 3), []),
    (wire.Ask(1, "status"), []),
    (wire.Answer(1), [b"x" * 5000]),
    (wire.Answer(1, 5, "why"), []),
    (wire.Placement(1, b"map"), []),
    (wire.AskIndex(1, 2), []),
    (wire.ReadSnapshot(1, 2, 3, 4, True), []),
    (wire.Behind(1, 2, 3), []),
    (wire.Lock(1, 2, 3, 4, 2**64 - 1, False, 2, 2, 0, 2**63 - 1), []),
    (wire.LockAnswer(1, 2, 3), []),
    (wire.LockAnswer(1, 2, 3, 11, 0, (1, 2, 1, 0, 9)), []),
    (wire.CancelLock(1, 2, 3), []),
    (wire.ClaimLocks(1, 2, 3, [(4, 5, True, False, 0, 2**63 - 1)]), []),
    (wire.KeepLocks(1, 2), []),
    (wire.LocksKept(1, 2, 3, True), []),
    (wire.LockHolders(1, 2, 3, [4, 5]), []),
    (wire.LockHoldersKnown(1, 2, 3), []),
]


def sent(message, parts=()):
    return memoryview(b"".join(wire.encode(message, parts)))


@pytest.mark.parametrize(("message", "parts"), MESSAGES, ids=lambda it: type(it).__name__)
def test_every_message_comes_out_as_it_went_in(message, parts):
    found, came = wire.decode(sent(message, parts))
    assert found == message
    assert [bytes(part) for part in came] == parts


def test_there_is_one_of_each_kind_here():
    kinds = {type(message) for message, _ in MESSAGES} | {wire.Peer, wire.Call}
    assert kinds == set(wire.Message.__args__)


def test_what_is_nested_comes_out_unread():
    raw = msgspec.Raw(b"\x93\x01\x02\x03")
    message, parts = wire.decode(sent(wire.Peer(1, raw, [Place(1, 2), Place(3, 4, 5, 6)]), [b"p"]))
    assert (bytes(message.message), message.places) == (
        bytes(raw),
        [Place(1, 2), Place(3, 4, 5, 6)],
    )
    assert bytes(parts[0]) == b"p"
    message, _ = wire.decode(sent(wire.Call(1, "put", raw)))
    assert bytes(message.arguments) == bytes(raw)


def test_parts_are_not_copied():
    payload = b"x" * 100_000
    assert wire.encode(wire.Answer(1), [payload])[-1] is payload
    data = sent(wire.Answer(1), [payload])
    _, (part,) = wire.decode(data)
    assert part.obj is data.obj


@pytest.mark.parametrize(("message", "parts"), MESSAGES, ids=lambda it: type(it).__name__)
def test_a_message_cut_or_longer_is_none(message, parts):
    data = bytes(sent(message, parts))
    for end in range(len(data)):
        with pytest.raises(Malformed):
            wire.decode(memoryview(data[:end]))
    with pytest.raises(Malformed):
        wire.decode(memoryview(data + b"x"))


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_a_message_or_malformed(seed):
    random = Random(seed)
    for _ in range(300):
        data = bytearray(sent(*random.choice(MESSAGES)))
        for _ in range(random.randrange(1, 5)):
            data[random.randrange(len(data))] = random.randrange(256)
        with contextlib.suppress(Malformed):
            wire.decode(memoryview(data))


@pytest.mark.parametrize(
    "message",
    [
        wire.Propose(1, 0, [(1, 0, b"a")]),
        wire.Propose(1, 2, [(1, 0, b"")]),
        wire.Propose(1, 2, [(1, 5, b"a")]),
        wire.Propose(1, 2, [(1, PAYLOAD_BYTES_MAX + 1, b"a")]),
        wire.Propose(1, 2, [(1, 0, b"a" * METADATA_BYTES_MAX)]),
        wire.Propose(1, 2, [(n, 0, b"a") for n in range(wire.PROPOSALS_MAX + 1)]),
        wire.Propose(1, -2, [(1, 0, b"a")]),
        wire.ReadPayload(1, 2, 3, -4, 5),
        wire.ReadPayload(1, 2, 3, 4, -5),
        wire.Subscribe(-1, 0, 0, 0),
        wire.Taken(1, -1),
        wire.Lock(1, 2, 3, 4, 5, False, 3, 0, 0, 1),
        wire.Lock(1, 2, 3, 4, 5, False, 1, 3, 0, 1),
        wire.Lock(1, 2, 3, 4, 5, False, 1, 2, -1, 1),
        wire.Lock(1, 2, 3, 4, 5, False, 1, 2, 2, 1),
        wire.ClaimLocks(1, 2, 3, [(4, 5, True, False, 9, 8)]),
        wire.LockAnswer(1, 2, 3, 11, 0, (1, 2, -1, 0, 9)),
    ],
)
def test_what_no_peer_of_ours_says_is_malformed(message):
    parts = [bytes(length) for _, length, _ in getattr(message, "proposals", []) if length > 5]
    with pytest.raises(Malformed):
        wire.decode(sent(message, parts))
