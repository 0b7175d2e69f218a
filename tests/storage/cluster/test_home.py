"""A directory's home follows its pool's rule, by its path, and is the same for everybody who asks."""

import pytest

from storage.cluster.home import group_of, home_of
from storage.membership.values import Pool, Shard, View


def view(*pools: Pool, shards: dict[int, str]) -> View:
    return View(
        1,
        pools={pool.name: pool for pool in pools},
        shards={number: Shard(number, pool) for number, pool in shards.items()},
    )


ROOT = Pool("root", "/", spread=1)
CAMERAS = Pool("cameras", "/data/cameras", affinity="cam[0-9]+", spread=0)
VIEW = view(ROOT, CAMERAS, shards={0: "root", 1: "root", 2: "cameras", 3: "cameras"})


def test_the_nearest_pool_decides() -> None:
    assert {home_of(VIEW, b"d%d" % n) for n in range(50)} == {0, 1}
    assert home_of(VIEW, b"d1/below") is None
    assert home_of(VIEW, b"data/camerasx") is None, "another name that begins alike"
    assert home_of(VIEW, b"data/cameras") in (2, 3)


def test_what_the_rule_finds_is_kept_together() -> None:
    homes = {home_of(VIEW, b"data/cameras/%d/cam%d" % (day, 7)) for day in range(20)}
    assert len(homes) == 1
    assert {home_of(VIEW, b"data/cameras/x/cam%d" % n) for n in range(50)} == {2, 3}
    assert home_of(VIEW, b"data/cameras/plain") is None


def test_what_lives_together_is_one_group() -> None:
    for path in (b"data/cameras/1/cam7", b"data/cameras/2/cam7/frames/late"):
        assert group_of(VIEW, path) == b"cam7"
    assert group_of(VIEW, b"data/cameras/1") == b""
    assert group_of(VIEW, b"d1/below/it") == b"d1", "a level of the root's pool"
    assert group_of(VIEW, b"") == b""
    for number in range(30):
        path = b"data/cameras/x/cam%d" % number
        assert home_of(VIEW, path) == home_of(VIEW, b"data/cameras/" + group_of(VIEW, path))


@pytest.mark.parametrize("empty", [View(), view(ROOT, shards={})])
def test_without_pool_or_shards_it_lives_with_its_parent(empty) -> None:
    assert home_of(empty, b"d") is None
