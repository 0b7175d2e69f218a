"""The queue gives every event once, in order per key, and forgets none.

Method: cases for each rule; a random walk of adding, taking, failing and time passing, against the plain statement of
the promise.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from triggers.binding import AT_CLOSE, Binding
from triggers.queue import Pending, Queue
from triggers.run import Event


def binding(**options) -> Binding:
    return Binding("b", "s.py", "f", ("**",), **options)


def pending(at: int, path: str = "p", key: str | None = None, rearmed: bool = False) -> Pending:
    event = Event(f"b/{at}.0", key or path, path, version=at, timestamp=at, position=(at, 0))
    made = Pending(event, address=at * 8, arrived_ms=at)
    made.rearmed = rearmed
    return made


def filled(paths: list[str], **options) -> Queue:
    queue = Queue(binding(**options))
    for at, path in enumerate(paths, start=1):
        queue.add(pending(at, path))
    return queue


def versions(events) -> list[int]:
    return [one.event.version for one in events]


def test_one_at_a_time_per_key_and_keys_in_parallel():
    queue = filled(["a", "a", "b"])
    first, second = queue.take(10), queue.take(10)
    assert (versions(first.events), versions(second.events)) == ([1], [3])
    assert queue.take(10).events == []
    queue.done(first.events)
    assert versions(queue.take(10).events) == [2]


def test_order_shard_is_one_lane_and_none_is_free():
    strict = filled(["a", "b"], order="shard")
    assert versions(strict.take(9).events) == [1]
    assert strict.take(9).events == []
    free = filled(["a", "a"], order="none")
    assert [versions(free.take(9).events) for _ in range(2)] == [[1], [2]]


def test_a_failed_event_comes_again_before_its_key_goes_on_and_others_pass():
    queue = filled(["a", "a", "b"])
    first = queue.take(10)
    queue.put_back(first.events, 500)
    assert versions(queue.take(10).events) == [3]
    assert queue.take(499).events == []
    assert queue.next_ms(20) == 500
    assert versions(queue.take(500).events) == [1]


def test_collapse_skips_what_is_superseded_when_its_turn_comes():
    queue = filled(["a", "a", "b", "a"], collapse=True)
    taken = queue.take(10)
    assert versions(taken.skipped) == [1, 2]
    assert versions(taken.events) == [4]
    queue.done(taken.skipped, ran=False)
    queue.add(pending(9, "a"))  # 4 runs already: it is no longer its turn to be skipped
    queue.done(taken.events)
    assert [versions(queue.take(10).events) for _ in range(2)] == [[3], [9]]


def test_settle_waits_until_a_path_is_quiet():
    queue = filled(["a", "a"], settle_ms=100)
    taken = queue.take(50)
    assert (versions(taken.skipped), taken.events) == ([1], [])
    queue.done(taken.skipped, ran=False)
    assert queue.next_ms(50) == 102
    assert versions(queue.take(102).events) == [2]


def test_settle_close_waits_until_nobody_writes_the_file():
    open_inodes = {7}
    queue = Queue(binding(settle_ms=AT_CLOSE), open_inodes.__contains__)
    for at, path in enumerate("aab", start=1):
        one = pending(at, path)
        one.inode = 7 if path == "a" else 8
        queue.add(one)
    taken = queue.take(10)
    assert (versions(taken.skipped), versions(taken.events)) == ([1], [3])
    queue.done(taken.skipped, ran=False)
    assert queue.take(40).events == []
    open_inodes.clear()
    assert queue.next_ms(40) == 60
    assert versions(queue.take(60).events) == [2]


def test_batches_gather_and_wait():
    queue = filled(["a", "b", "a"], batch=2, wait_ms=50)
    assert versions(queue.take(3).events) == [
        1,
        3,
    ]  # a full one does not wait; one key stays in order
    assert queue.take(3).events == []
    assert queue.next_ms(3) == 52
    assert versions(queue.take(52).events) == [2]


def test_a_failed_batch_is_halved_until_the_culprit_is_alone():
    queue = filled(list("abcd"), batch=4)
    sizes = []
    while len(queue):
        taken = queue.take(10).events
        sizes.append(len(taken))
        bad = [one for one in taken if one.event.path == "c"]
        if len(taken) > 1 and bad:
            queue.put_back(taken, 0, split=True)
        else:
            queue.done(taken)
    assert sizes == [4, 2, 2, 1, 1]


def test_rate_holds_back_and_drops_nothing():
    queue = filled(list("abcde"), rate=(2, 1000))
    ran = []
    now = 10
    while len(queue):
        taken = queue.take(now).events
        if not taken:
            assert queue.next_ms(now) > now
            now = queue.next_ms(now)
            continue
        ran.append((now, taken[0].event.version))
        queue.done(taken)
    assert [version for _, version in ran] == [1, 2, 3, 4, 5]
    assert [at for at, _ in ran][:2] == [10, 10]
    assert 1500 <= ran[-1][0] <= 1520


def test_pause_and_block():
    queue = filled(["a", "a", "b"])
    queue.paused = True
    assert queue.take(10).events == []
    assert queue.next_ms(10) is None
    queue.paused = False
    first = queue.take(10).events
    queue.block(first)
    assert versions(queue.blocked()) == [1]
    assert versions(queue.take(10).events) == [3]
    assert queue.take(10).events == []
    queue.unblock(first[0])
    assert versions(queue.take(10).events) == [1]


def test_the_oldest_open_event_is_where_the_mark_must_stay_below():
    queue = filled(["a", "b"])
    first, second = queue.take(9).events, queue.take(9).events
    queue.done(second)
    assert queue.oldest() is first[0]
    queue.add(pending(1000, "z"))
    queue.done(first)
    assert queue.oldest().position == (1000, 0)


def test_asked_for_by_hand_it_does_not_hold_the_mark():
    queue = Queue(binding())
    queue.add(pending(1, rearmed=True))
    assert queue.oldest() is None
    assert len(queue) == 1
    taken = queue.take(5).events
    queue.done(taken)
    assert len(queue) == 0


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.sampled_from(["done", "fail", "split"])),
        st.tuples(st.just("pass"), st.integers(1, 50)),
    ),
    max_size=60,
)


@given(
    steps,
    st.sampled_from(["key", "shard", "none"]),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 20),
    st.booleans(),
)
def test_every_event_is_done_once_and_keys_stay_in_order(
    script, order, batch, collapse, wait, rate
):
    queue = Queue(
        binding(
            order=order, batch=batch, collapse=collapse,
            wait_ms=wait if batch > 1 else 0, rate=(3, 40) if rate else None,
        )
    )  # fmt: skip
    now, added, running, ended = 1, 0, [], []
    newest: dict[str, int] = {}

    def take():
        taken = queue.take(now)
        for one in taken.skipped:
            assert collapse
            assert newest[one.event.path] > one.event.version
        if taken.skipped:
            queue.done(taken.skipped, ran=False)
            ended.extend(versions(taken.skipped))
        if taken.events:
            assert len(taken.events) <= batch
            running.append(taken.events)
            lanes = defaultdict(int)
            for group in running:
                for lane in {"" if order == "shard" else one.event.key for one in group}:
                    lanes[lane] += 1
            assert order == "none" or max(lanes.values()) == 1

    def finish(how):
        group = running.pop(0)
        if how == "done":
            queue.done(group)
            ended.extend(versions(group))
        else:
            queue.put_back(group, now + 5, split=how == "split")

    for action, value in script:
        if action == "add":
            added += 1
            newest[value] = added
            queue.add(pending(added, value))
        elif action == "take":
            take()
        elif action == "finish" and running:
            finish(value)
        elif action == "pass":
            now += value
    rounds = 0
    while len(queue):
        rounds += 1
        assert rounds < 2000, "it stands still"
        take()
        while running:
            finish("done")
        when = queue.next_ms(now)
        if len(queue):
            assert when is not None
            now = max(now, when)
    assert sorted(ended) == list(range(1, added + 1))
    if order == "shard" and not collapse:
        assert ended == sorted(ended)
