"""Goal: an authority that was restored from an older copy is noticed by whoever has seen more, and what is put into it is what was, or nothing.

Method: each way of being older by itself; each case of what nodes tell of a shard, and what follows from it.
"""

import msgspec
import pytest

from storage.membership.known import Known, decode, encode
from storage.membership.recovery import SKIPPED, Unclear, Witness, plan
from storage.membership.values import (
    Certificate,
    Cluster,
    Epoch,
    Node,
    Pool,
    Recovered,
    Shard,
    View,
)

POOL, SHARD = Pool("root", "/"), Shard(3, "root")


def view(revision, *epochs, **fields):
    return View(
        revision=revision,
        cluster=Cluster("c", 1),
        pools={"root": POOL},
        shards={3: SHARD},
        nodes={name: Node(name, (f"{name}:1",)) for name in ("n1", "n2", "n3")},
        epochs={epoch.shard: epoch for epoch in epochs},
        **fields,
    )


def epoch(number, *members, shard=3):
    return Epoch(shard, number, members[0], members)


def witness(name, seen, **held):
    return Witness(name, Known("e1", seen), {int(key[1:]): value for key, value in held.items()})


# --- noticing -----------------------------------------------------------------------------------------------------------

NEWER = view(70, epoch(5, "n1"), recovered=Recovered(100))


@pytest.mark.parametrize(
    ("etcd", "read", "why"),
    [
        ("e1", view(71, epoch(5, "n1"), recovered=Recovered(100)), None),
        ("e1", view(90, epoch(4, "n1"), recovered=Recovered(100)), "shard 3 was in epoch 5"),
        ("e1", view(90, recovered=Recovered(100)), "there it is in none"),
        ("e2", view(90, epoch(6, "n1"), recovered=Recovered(100)), "it is etcd e2, and was e1"),
        ("e1", view(60, epoch(5, "n1"), recovered=Recovered(100)), "from revision 70 to 60"),
        ("e2", view(60, epoch(5, "n1"), recovered=Recovered(101)), None),
        ("e2", view(90, epoch(4, "n1"), recovered=Recovered(101)), "shard 3 was in epoch 5"),
    ],
)
def test_an_older_authority_is_told_from_a_newer_one(etcd, read, why):
    said = Known("e1", NEWER).objection(etcd, read)
    assert said == why or why in said
    assert Known().objection(etcd, read) is None, "who has seen nothing objects to nothing"


def test_an_epoch_that_cannot_be_read_is_no_sign():
    read = view(71, recovered=Recovered(100))
    assert Known("e1", NEWER).objection("e1", read, {"epochs/3": "of a newer version"}) is None


def test_what_is_known_is_kept_but_who_lives():
    known = Known("e1", NEWER)
    assert decode(encode(known)) == known
    for raw in (b"", b"{", b'{"etcd":"e1"}', b'{"etcd":"e1","revision":1,"epochs":[3]}'):
        with pytest.raises(ValueError, match=r"Input data|malformed|missing required|Expected"):
            decode(raw)


# --- mending ------------------------------------------------------------------------------------------------------------


def test_the_newest_epoch_is_put_back_as_it_was():
    old, new = epoch(4, "n1", "n2", "n3"), epoch(6, "n2", "n3")
    told = [
        witness("n1", view(50, epoch(5, "n1", "n2", "n3")), s3=5),
        witness("n2", view(70, new), s3=6),
        witness("n3", view(68, new), s3=6),
    ]
    found = plan(view(30, old), told, at_us=1000)
    assert found.values == (new,)
    assert found.beyond == 70
    assert found.recovered == Recovered(1000)
    assert plan(view(30, new), told, at_us=1000).values == ()


def test_who_has_seen_only_the_restored_one_does_not_say_what_was():
    drained = Node("n2", ("n2:1",), state="draining")
    seen = view(70, epoch(6, "n1"))
    seen = msgspec.structs.replace(seen, nodes={**seen.nodes, "n2": drained})
    late = view(90, epoch(4, "n1"))
    told = [witness("n3", late)._replace(obeys=True), witness("n1", seen, s3=6)]
    found = plan(late, told, at_us=1)
    assert set(found.values) == {drained, epoch(6, "n1")}
    assert found.beyond == 90


def test_a_member_that_is_not_heard_may_know_more():
    told = [witness("n2", view(70, epoch(6, "n1", "n2", "n3")), s3=6)]
    with pytest.raises(Unclear, match="n1, n3 did not answer, and may know of a newer one"):
        plan(view(30), told, at_us=1)
    found = plan(view(30), told, at_us=1, lose=True)
    assert found.values == (epoch(6 + SKIPPED, "n2"),), "of those that are there, with a new number"
    with pytest.raises(Unclear, match="n1 did not answer"):
        plan(view(30), [witness("n2", view(70, epoch(6, "n1")))], at_us=1, lose=True)


def test_records_of_an_epoch_that_nobody_knows():
    told = [witness("n1", view(70, epoch(6, "n1")), s3=8)]
    with pytest.raises(Unclear, match="records of epoch 8, and nobody knows"):
        plan(view(30), told, at_us=1)
    assert plan(view(30), told, at_us=1, lose=True).values == (epoch(8 + SKIPPED, "n1"),)


def test_two_that_have_gone_apart_are_not_joined():
    told = [
        witness("n1", view(70, epoch(6, "n1"))),
        witness("n2", view(71, epoch(6, "n2"))),
    ]
    with pytest.raises(Unclear, match="differ about who is in epoch 6"):
        plan(view(30), told, at_us=1, lose=True)


def test_what_operators_did_is_put_back_and_what_was_revoked_stays_so():
    drained = Node("n2", ("n2:1",), state="draining")
    seen = view(70, epoch(6, "n1"), recovered=Recovered(500))
    seen = msgspec.structs.replace(seen, nodes={**seen.nodes, "n2": drained})
    one, two, three = (Certificate(serial, revoked_us=7) for serial in ("a1", "b2", "c3"))
    told = [
        witness(
            "n1", msgspec.structs.replace(seen, certificates={"a1": one, "b2": Certificate("b2")})
        ),
        witness("n2", view(40, epoch(6, "n1"), certificates={"b2": two})),
    ]
    now = view(30, epoch(6, "n1"), certificates={"c3": three, "a1": Certificate("a1")})
    found = plan(now, told, at_us=200)
    assert set(found.values) == {drained, one, two}
    assert found.recovered == Recovered(501), "later than any before, whatever the clock says"
