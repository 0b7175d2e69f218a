"""Payloads that are kept are those that were put, in bounded memory."""

from random import Random

from storage.link.payloads import Payloads


def test_any_range_within_one_that_is_kept_is_found() -> None:
    kept = Payloads(1000)
    kept.put(1, 64, 100, b"abcdefgh")
    assert kept.get(1, 64, 102, 3) == b"cde"
    assert kept.get(1, 64, 99, 3) is None
    assert kept.get(1, 64, 106, 3) is None
    assert kept.get(2, 64, 102, 3) is None
    assert (kept.hits, kept.misses) == (1, 3)


def test_memory_is_bounded_and_the_least_recently_used_go_first() -> None:
    kept, random = Payloads(1000), Random(1)
    for address in range(100):
        kept.put(0, address, 0, bytes([address]) * random.randrange(1, 200))
        kept.put(0, address, 0, bytes([address]) * 50)
        assert kept.bytes <= 1000
        kept.get(0, 0, 0, 10)
    assert kept.get(0, 99, 0, 50) == bytes([99]) * 50
    kept.put(0, 500, 0, bytes(2000))
    assert kept.get(0, 500, 0, 2000) is None
