"""What is wanted next is read while a handler computes. Method: a reader on a clock of the test's own, one file at a time."""

from __future__ import annotations

import itertools

import pytest

from triggers.handler.prefetch import ASKED_MAX, AsyncPrefetch, Prefetch

READ_MS, COMPUTE_MS = 20, 22


class Reader:
    """Takes `READ_MS` for each file, in the order they are asked for; the clock goes on when somebody waits or computes."""

    def __init__(self) -> None:
        self.now_ms = self.busy_ms = self.free_ms = 0
        self.asked: list[str] = []
        self.taken: list[str] = []
        self.abandoned: list[str] = []

    def begin(self, path: str):
        self.asked.append(path)
        self.free_ms = ready_ms = max(self.free_ms, self.now_ms) + READ_MS
        return Reply(self, path, ready_ms)

    def compute(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.busy_ms += milliseconds

    @property
    def waiting(self) -> int:
        return len(self.asked) - len(self.taken) - len(self.abandoned)


class Reply:
    def __init__(self, reader: Reader, path: str, ready_ms: int) -> None:
        self.reader, self.path, self.ready_ms = reader, path, ready_ms

    def __call__(self) -> str:
        self.reader.now_ms = max(self.reader.now_ms, self.ready_ms)
        self.reader.taken.append(self.path)
        return self.path

    def abandon(self) -> None:
        self.reader.abandoned.append(self.path)


PATHS = [f"p/{number}" for number in range(50)]


@pytest.mark.parametrize(("ahead", "least", "most"), [(0, 0.0, 0.6), (1, 0.9, 1.0), (2, 0.9, 1.0)])
def test_whoever_computes_is_busy_where_files_are_asked_for_ahead(ahead, least, most):
    reader = Reader()
    found = []
    for path in Prefetch(reader.begin, PATHS, None, ahead):
        found.append(path)
        reader.compute(COMPUTE_MS)
    assert found == reader.asked == PATHS
    assert least <= reader.busy_ms / reader.now_ms <= most


def test_the_next_batches_are_on_their_way_before_one_is_waited_for():
    reader = Reader()
    batches = Prefetch(reader.begin, PATHS, 8, 2)
    assert reader.asked == PATHS[:16]
    assert next(batches) == PATHS[:8]
    assert reader.asked == PATHS[:24]
    assert [len(batch) for batch in batches] == [8] * 5 + [2]
    assert list(batches) == []


def test_paths_are_taken_as_they_are_asked_for_and_no_more_than_a_socket_holds():
    reader = Reader()
    endless = (f"n/{number}" for number in itertools.count())
    batches = Prefetch(reader.begin, endless, 100, 5)
    for _ in range(3):
        assert len(next(batches)) == 100
        assert reader.waiting == ASKED_MAX
    batches.close()
    assert reader.waiting == 0
    assert list(batches) == []


def test_without_looking_ahead_a_file_is_read_when_it_is_wanted():
    reader = Reader()
    files = Prefetch(reader.begin, PATHS, None, 0)
    assert reader.asked == []
    assert next(files) == PATHS[0]
    assert reader.asked == PATHS[:1]


async def test_coroutines_have_it_too():
    reader = Reader()
    found = [path async for path in AsyncPrefetch(Prefetch(reader.begin, PATHS, None, 2))]
    assert found == PATHS


@pytest.mark.parametrize(("batch", "ahead"), [(0, 1), (-1, 1), (None, -1)])
def test_numbers_that_are_none_are_said(batch, ahead):
    with pytest.raises(ValueError, match="prefetch: batch="):
        Prefetch(Reader().begin, PATHS, batch, ahead)
