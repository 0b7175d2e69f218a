"""What should lie where: a directory's path to its affinity key, a key to a shard, a shard to nodes.

All by rendezvous (highest random weight) hashing: whoever has the greatest xxh3 of (who, key) wins. There is no table to
keep or to agree on, every party computes the same, and when a candidate comes or goes only those
keys move that it wins or won: a share of 1/n. Source: Thaler and Ravishankar, "A name-based mapping scheme for
rendezvous" (1996). The affinity key is Cascade's: what an expression finds in the path is kept together.

Changing what is hashed, or how, moves every directory yet to be made and every shard's wish: do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import re2
import xxhash

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["RuleError", "affinity_key", "check_rule", "choose_nodes", "home_shard", "rank"]

RULE_CHARACTERS_MAX = 1024
"""An affinity rule longer than this is a mistake."""


class RuleError(ValueError):
    """An affinity rule that is no regular expression; the message says where."""


def weight(candidate: str, key: bytes) -> int:
    """How much a candidate wants a key: 64 bits, equally distributed over candidates and keys."""
    name = candidate.encode()
    return xxhash.xxh3_64_intdigest(len(name).to_bytes(1, "big") + name + key)


def rank(candidates: Iterable[str], key: bytes) -> list[str]:
    """Candidates (names of at most 255 bytes), who wants the key most first; equal weights by name."""
    return sorted(candidates, key=lambda candidate: (-weight(candidate, key), candidate))


def affinity_key(below: bytes, rule: str, spread: int) -> bytes | None:
    """The affinity key of a directory about to be made, or None: it lives where its parent lives.

    Args:
        below: The directory's path below the pool's own directory, ``a/b``, not empty.
        rule: A regular expression searched in that path; its first group, or all that matched, is the
            key. Where it is empty or finds nothing, the level decides.
        spread: Directories at most this many levels below the pool's are their own key.
    """
    assert below
    if rule and (found := re2.search(rule.encode(), below)) is not None:
        key = found.group(1) if found.re.groups else found.group()
        if key:
            return bytes(key)
    if below.count(b"/") < spread:
        return below
    return None


def check_rule(rule: str) -> None:
    """Accept an affinity rule.

    Raises:
        RuleError: it is no regular expression of RE2 (linear time, so no back-references), or too long.
    """
    if len(rule) > RULE_CHARACTERS_MAX:
        raise RuleError(f"longer than {RULE_CHARACTERS_MAX} characters")
    try:
        options = re2.Options()
        options.log_errors = False
        re2.compile(rule.encode(), options)
    except re2.error as error:
        (why,) = error.args
        raise RuleError(why.decode() if isinstance(why, bytes) else str(why)) from error


def home_shard(pool: str, key: bytes, shards: Iterable[int]) -> int:
    """The shard, among a pool's, where directories with this affinity key live. `shards` is not empty.

    Keys of different pools are independent of each other.
    """
    seed = xxhash.xxh3_64_intdigest(pool.encode())
    return max(
        shards,
        key=lambda shard: (xxhash.xxh3_64_intdigest(shard.to_bytes(2, "big") + key, seed), -shard),
    )


def choose_nodes(
    shard: int, nodes: Mapping[str, Collection[str]], labels: Collection[str], replicas: int
) -> list[str]:
    """The nodes that should hold a shard, the preferred leader first; fewer than `replicas` if there are no more.

    Args:
        shard: Whose members are sought.
        nodes: The candidates with the labels each has.
        labels: What a node must have, all of it.
        replicas: How many are wanted.
    """
    wanted = set(labels)
    able = (name for name, has in nodes.items() if wanted <= set(has))
    return rank(able, b"shard %d" % shard)[:replicas]
