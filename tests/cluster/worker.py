"""A program that changes files of a cluster until it is told to stop, and writes down everything that was acknowledged.

    python -m tests.cluster.worker MOUNT.TOML NAME DIRECTORY,DIRECTORY... JOURNAL

It appends a line of its own to a file that others append to, too, and counts up a number that others count up, each time in one
of the directories. An error is written down and the end. It stops when its standard input ends.

Each line of the journal is JSON: [began, ended, what, directory, version, text], times in seconds of the monotonic clock.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time

import cascadefs

ATTEMPTS = 1000
PAUSE_S = 0.02
"""At most, between two changes: what is written has to be read back, each version of it."""


def append(store, name, directory, number):
    text = f"{name} {number}\n"
    return store.append(f"{directory}/lines", text).number, text


def count_up(store, name, directory, number):
    path = f"{directory}/count"
    for _ in range(ATTEMPTS):
        found = store.read(path)
        before = int(bytes(found.data).split()[0])
        text = f"{before + 1} {name} {number}"
        try:
            return store.put(path, text, expect=found.version.number).number, text
        except cascadefs.Conflict:
            continue  # Somebody else was first; that is no error.
    raise TimeoutError("somebody else is always first")


def main(config, name, directories, journal):
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    choice = random.Random(name)
    with cascadefs.connect(config) as store, open(journal, "w", buffering=1) as told:
        number = 0
        while not over.is_set():
            number += 1
            directory = choice.choice(directories.split(","))
            work = choice.choice([append, count_up])
            time.sleep(choice.uniform(0, PAUSE_S))
            began = time.monotonic()
            try:
                version, text = work(store, name, directory, number)
            except Exception as error:
                told.write(
                    json.dumps([began, time.monotonic(), "error", directory, 0, repr(error)]) + "\n"
                )
                raise
            told.write(
                json.dumps([began, time.monotonic(), work.__name__, directory, version, text])
                + "\n"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
