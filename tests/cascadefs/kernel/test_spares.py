"""Goal: as many threads read as ever, whoever waits; no more than needed are started, and those that are too many park.

Method: readers that are handed requests by a queue; a request is to wait until told.
"""

import queue
import threading

from cascadefs.kernel.spares import SPARES_MAX, Spares


class Readers:
    """Some that read from the start, and their spares."""

    def __init__(self, count):
        self.requests = queue.Queue()
        self.reading = threading.Semaphore(0)
        self.waiting = threading.Semaphore(0)
        self.spares = Spares(self.read)
        self.threads = set()
        for _ in range(count):
            threading.Thread(target=self.begin, daemon=True).start()
            assert self.reading.acquire(timeout=10)

    def begin(self):
        self.spares.enter()
        self.read(lambda: None)

    def read(self, park):
        self.threads.add(threading.get_ident())
        while True:
            park()
            self.reading.release()
            told = self.requests.get()
            if told is None:
                return
            self.spares.leave()
            self.waiting.release()
            told.wait()
            self.spares.back()

    def wait(self):
        """Have a reader wait; what tells it to go on."""
        told = threading.Event()
        self.requests.put(told)
        assert self.waiting.acquire(timeout=10)
        return told

    def settle(self):
        """Until nobody waits any more."""
        for _ in range(30_000):
            if not self.spares._away:
                return
            threading.Event().wait(0.001)
        raise AssertionError("not within 30 s")

    def end(self):
        for _ in range(len(self.threads)):
            self.requests.put(None)


def test_others_read_while_readers_wait():
    readers = Readers(2)
    told = []
    for number in range(6):
        told.append(readers.wait())
        assert readers.reading.acquire(timeout=10), "somebody reads in his place"
        assert len(readers.threads) == 3 + number
    for each in told:
        each.set()
    readers.settle()
    for _ in range(30):
        # Those that are too many park when they come to read; nobody new is needed.
        readers.wait().set()
        readers.settle()
    assert len(readers.threads) == 8
    readers.end()


def test_there_is_a_bound():
    readers = Readers(1)
    told = [readers.wait() for _ in range(SPARES_MAX + 1)]
    assert len(readers.threads) == SPARES_MAX + 1
    assert readers.spares._started == SPARES_MAX
    for each in told:
        each.set()
    readers.wait().set()
    readers.end()


def test_who_is_no_reader_has_no_spare():
    readers = Readers(1)
    readers.spares.leave()
    readers.spares.back()
    assert len(readers.threads) == 1
    readers.end()


def test_where_there_can_be_no_more_threads_those_there_are_wait_and_go_on(monkeypatch):
    readers = Readers(2)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        told = [readers.wait()]
    told.append(readers.wait())
    assert readers.reading.acquire(timeout=10), "as soon as there can be one, it reads"
    for one in told:
        one.set()
    readers.end()
