"""`storage.member.syncing`: one sync at a time on a kept thread, told of in the loop."""

import threading

import pytest
import trio

from storage.member.syncing import Syncing


async def synced(syncing, sync):
    """What a sync came to."""
    told, found = trio.Event(), []

    def tell(result):
        found.append((result, threading.current_thread()))
        told.set()

    syncing.begin(sync, tell)
    await told.wait()
    return found[0]


def test_syncs_run_on_one_thread_and_are_told_of_in_the_loop():
    async def main():
        syncing, threads = Syncing("sync"), []

        def sync():
            threads.append(threading.current_thread())
            return len(threads)

        for number in (1, 2, 3):
            assert await synced(syncing, sync) == (number, threading.current_thread())
            assert not syncing.is_busy
        await syncing.aclose()
        assert len(set(threads)) == 1
        assert threads[0] is not threading.current_thread()
        assert not threads[0].is_alive()

    trio.run(main)


def test_a_disk_that_fails_is_told():
    async def main():
        syncing, error = Syncing("sync"), OSError("gone")

        def sync():
            raise error

        assert (await synced(syncing, sync))[0] is error
        assert not syncing.is_busy
        await syncing.aclose()

    trio.run(main)


def test_a_bug_ends_the_loop():
    async def main():
        syncing = Syncing("sync")
        syncing.begin(lambda: 1 // 0, lambda found: None)
        try:
            await trio.sleep_forever()
        finally:
            await syncing.aclose()

    with pytest.raises(trio.TrioInternalError) as raised:
        trio.run(main)
    assert "ZeroDivisionError" in repr(raised.value.__cause__)


def test_the_end_waits_for_the_sync_that_runs_and_nobody_is_told():
    async def main():
        syncing, begun, may_end, told, ended = (
            Syncing("sync"),
            trio.Event(),
            threading.Event(),
            [],
            [],
        )
        token = trio.lowlevel.current_trio_token()

        def sync():
            token.run_sync_soon(begun.set)
            may_end.wait()
            ended.append(True)
            return 1

        syncing.begin(sync, told.append)
        await begun.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_later, may_end)
                await syncing.aclose()
        assert ended
        await trio.testing.wait_all_tasks_blocked()
        assert not told

    trio.run(main)


async def _later(may_end):
    may_end.set()
