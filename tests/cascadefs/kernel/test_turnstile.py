"""Requests pass in the order of their numbers, whichever thread brings them, and none waits for ever."""

from __future__ import annotations

import random
import threading

from cascadefs.kernel.turnstile import STEP, Turnstile


def test_the_order_of_the_queue_is_kept():
    """Two threads take numbers from one queue, as from a device, and dawdle before they enter."""
    turnstile, queue, taking, seen = Turnstile(), iter(range(2, 4002, STEP)), threading.Lock(), []
    begun = threading.Barrier(2)

    def read(seed):
        chance = random.Random(seed)
        begun.wait()
        while True:
            with taking:
                number = next(queue, None)
            if number is None:
                return
            for _ in range(chance.choice((0, 0, 0, 2000))):
                pass
            turnstile.enter(number)
            seen.append(number)
            turnstile.lock.release()

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert turnstile.out_of_turn == 0
    assert seen == sorted(seen)
    assert len(seen) == 2000


def test_a_number_that_never_comes_is_given_up():
    turnstile = Turnstile()
    for number in (2, 4, 8, 10):
        turnstile.enter(number)
        turnstile.lock.release()
    assert turnstile.out_of_turn == 1


def test_what_comes_after_it_was_given_up_passes_and_holds_up_nobody():
    turnstile = Turnstile()
    for number in (2, 6, 4, 8, 10):
        turnstile.enter(number)
        turnstile.lock.release()
    assert turnstile.out_of_turn == 1


def test_forgets_pass_at_once_and_leave_no_gap():
    turnstile = Turnstile()
    turnstile.enter(2)
    turnstile.lock.release()
    for forget in (8, 10, 4):
        turnstile.enter_unordered(forget)
        turnstile.lock.release()
    turnstile.pass_by(12)
    for number in (6, 14):
        turnstile.enter(number)
        turnstile.lock.release()
    assert turnstile.out_of_turn == 0
