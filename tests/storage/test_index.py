"""The index is derived: whatever becomes of its file, no answer is ever wrong because of it.

Method: the real file, LMDB's, of the small store of test_store. Pages of it lost as a power cut loses them; bits of it
turned, everywhere in what is used. Each image is opened, and every question asked, in a child process: LMDB ends the
process on some kinds of damage, and that must not look like anything else.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from storage import record
from storage.attributes import REGULAR
from storage.disk import RealDisk
from storage.errors import Corruption, Unusable
from storage.index import CLEAN, LmdbIndex, read_mark, write_mark
from storage.inspection import inspect
from storage.namespace import ROOT
from tests.storage.test_store import (
    DAMAGED,
    copy_tree,
    drop,
    facts,
    open_store,
    save,
    small,  # noqa: F401  a fixture
)

PAGE_BYTES = 4096
FLIPS = int(os.environ.get("CASCADEFS_FLIPS", "120"))
"""Bits of the index to turn, one at a time."""

RIGHT, WRONG, REFUSED, RAISED = 0, 1, 2, 3


def verdict_of_child(work) -> str:
    """What `work` answers in a process of its own: right, wrong, refused; or the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = RAISED
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            status = work()
        except (Corruption, OSError, Unusable):
            status = REFUSED
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    words = {RIGHT: "right", WRONG: "wrong", REFUSED: "refused", RAISED: "raised"}
    return words[os.WEXITSTATUS(status)]


def found_by_fsck(directory: Path) -> int:
    found = inspect(RealDisk(directory), LmdbIndex(directory), boot_id="boot")
    return RIGHT if found.damage else WRONG


def test_the_mark_says_under_which_boot_the_index_was_used(small, tmp_path) -> None:  # noqa: F811
    directory = copy_tree(small.stopped, tmp_path / "copy")
    disk = RealDisk(directory)
    assert read_mark(disk) == CLEAN
    store = open_store(directory, boot="this boot")
    assert read_mark(disk) == b"this boot"
    store.close()
    assert read_mark(disk) == CLEAN
    write_mark(disk, b"x")
    assert read_mark(disk) == b"x"
    (directory / "index/boot").unlink()
    assert read_mark(disk) is None


@pytest.mark.slow
def test_pages_lost_in_a_power_cut(tmp_path) -> None:
    """Of what was published and never synced each page is there or as it was, on its own: it is built again, always."""
    store = open_store(tmp_path / "live", segment_bytes=1 << 16)
    for number in range(300):
        store.propose(record.Create(ROOT, b"%d" % number, store.allocate_inode(), REGULAR, 0, 0))
        if number % 30 == 29:
            store.publish()
    store.close()
    store = open_store(tmp_path / "live", boot="second boot")
    path = tmp_path / "live/index/index.lmdb"
    images = [path.read_bytes()[: 1 << 20]]
    for number in range(300):
        save(store, 2 + number, (0, b"content %d" % number))
        if number % 20 == 19:
            store.publish()
            with path.open("rb") as file:
                images.append(file.read(1 << 20))
    names = sorted(name for name, _ in store.children(ROOT))
    random = Random(3)
    verdicts: Counter[str] = Counter()
    for _ in range(30):
        image = bytearray(images[0])
        for before, after in pairwise(images[: random.randrange(2, len(images) + 1)]):
            for at in range(0, len(after), PAGE_BYTES):
                page = after[at : at + PAGE_BYTES]
                if page != before[at : at + PAGE_BYTES] and random.random() < 0.6:
                    image[at : at + PAGE_BYTES] = page
        directory = Path(shutil.copytree(tmp_path / "live", tmp_path / "cut"))
        with (directory / "index/index.lmdb").open("r+b") as file:
            file.write(image)

        def work(directory: Path = directory) -> int:
            found = open_store(directory, boot="third boot")
            said = "went down without a clean stop" in found.recovery[0]
            return RIGHT if said and sorted(n for n, _ in found.children(ROOT)) == names else WRONG

        verdicts[verdict_of_child(work)] += 1
        shutil.rmtree(directory)
    drop(store)
    print(f"figure: index after a power cut, pages lost: {dict(verdicts)}")
    assert verdicts == {"right": 30}


@pytest.mark.slow
@pytest.mark.timeout(max(120, FLIPS))
def test_a_turned_bit_of_the_index_is_met_or_found(small, tmp_path) -> None:  # noqa: F811
    """Right, or an error, or built again. What ends the process is no answer, and the next start builds it again.

    A turned bit of a key makes its row unfindable, which no question notices: then fsck has to, which reads all rows.
    """
    expected = pickle.dumps(small.after[small.last])
    path = small.stopped / "index/index.lmdb"
    used = path.read_bytes()[: 1 << 20].rstrip(b"\0")
    random = Random(4)
    verdicts: Counter[str] = Counter()
    wrong = []

    def turned(at: int, mask: int) -> Path:
        directory = copy_tree(small.stopped, tmp_path / "copy")
        with (directory / "index/index.lmdb").open("r+b") as file:
            file.seek(at)
            file.write(bytes([used[at] ^ mask]))
        return directory

    for _ in range(FLIPS):
        at, mask = random.randrange(len(used)), 1 << random.randrange(8)
        directory = turned(at, mask)

        def work(directory: Path = directory) -> int:
            found, right = facts(open_store(directory)), pickle.loads(expected)
            wrong = [key for key in right if found.get(key) not in (right[key], DAMAGED)]
            return WRONG if wrong or found.keys() != right.keys() else RIGHT

        verdict = verdict_of_child(work)
        verdicts[verdict] += 1
        if verdict == "wrong":
            shutil.rmtree(directory)
            directory = turned(at, mask)
            if verdict_of_child(lambda directory=directory: found_by_fsck(directory)) != "right":
                wrong.append((at, mask))
        elif verdict not in ("right", "refused"):
            # The next start must not fall into the same hole.
            verdicts["started again after that: " + verdict_of_child(work)] += 1
        shutil.rmtree(directory)
    print(f"figure: bits of the index turned: {FLIPS}, {dict(verdicts)}")
    assert not wrong, f"wrong, and not found by fsck, after turning (offset, mask) {wrong[:10]}"
    assert verdicts["right"] + verdicts["refused"] > FLIPS // 2
