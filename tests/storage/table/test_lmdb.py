"""What `LmdbTable` promises beyond the contract: processes, kills, threads, full and damaged files.

Method: real files in a temporary directory; other processes are children that run a few lines of
Python and answer on their standard output.
"""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import pytest

import storage.table.lmdb
from storage.errors import Corruption
from storage.table import LmdbTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

END = b"\xff" * 4
ROOT = Path(__file__).parents[3]
ROWS = {b"key %d" % number: b"value %d" % number for number in range(20)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


def run(path: Path, code: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a child that knows ``path``, ``LmdbTable`` and ``os``; it may fail."""
    prologue = f"import os, sys; from storage.table import LmdbTable; path = {str(path)!r}\n"
    command = [*wrapper, sys.executable, "-c", prologue + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A child with the table open read-only that prints ``b"k"`` for each line it is sent.

    The line is a method to call first: ``commit``, ``abandon``, or ``get`` itself for nothing.
    """
    code = (
        "import sys; from storage.table import LmdbTable\n"
        f"table = LmdbTable({str(path)!r}, read_only=True)\n"
        "for line in sys.stdin:\n"
        "    line.strip() == 'stay' or getattr(table, line.strip())()\n"
        "    print(table.get(b'k'), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        yield child
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=60) == 0


def ask(child: subprocess.Popen[str], method: str) -> str:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(method + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


# Reopening, kills, other processes.


def test_reopening_finds_what_was_committed(path: Path) -> None:
    table = LmdbTable(path)
    table.put(b"a", b"1")
    table.commit()
    table.put(b"b", b"2")
    table.close()
    table = LmdbTable(path)
    assert list(table.scan(b"", END)) == [(b"a", b"1")]
    table.close()


def test_a_kill_spares_the_committed_and_nothing_else(path: Path) -> None:
    child = run(
        path,
        "table = LmdbTable(path)\n"
        "table.put(b'a', b'1'); table.commit()\n"
        "table.put(b'a', b'2'); table.put(b'b', b'2'); os._exit(9)",
    )
    assert child.returncode == 9, child.stderr
    table = LmdbTable(path)
    assert list(table.scan(b"", END)) == [(b"a", b"1")]
    table.put(b"a", b"3")  # The dead writer's lock is free.
    table.commit()
    table.close()


def test_another_process_sees_committed_rows_only_when_it_moves_on(path: Path) -> None:
    table = LmdbTable(path)
    table.put(b"k", b"1")
    table.commit()
    with reader(path) as child:
        assert ask(child, "stay") == "b'1'"
        table.put(b"k", b"2")
        assert ask(child, "commit") == "b'1'"
        table.commit()
        assert ask(child, "stay") == "b'1'"
        assert ask(child, "commit") == "b'2'"
        table.put(b"k", b"3")
        table.commit()
        assert ask(child, "abandon") == "b'3'"
    table.close()


def test_a_reader_follows_a_map_that_grew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.table.lmdb, "MAP_BYTES_MIN", 1024 * 1024)
    monkeypatch.setattr(storage.table.lmdb, "UPKEEP_TRANSACTIONS", 1)
    table = LmdbTable(path)
    table.put(b"k", b"0")
    table.commit()
    code = (
        "import sys, storage.table.lmdb as room\n"
        "room.MAP_BYTES_MIN = 1024 * 1024\n"
        "table = LmdbTable(path, read_only=True)\n"
        "table.get(b'k'); print('ready', flush=True); sys.stdin.readline()\n"
        "table.commit(); print(table.get(b'k'))\n"
    )
    prologue = f"from storage.table import LmdbTable; path = {str(path)!r}\n"
    with subprocess.Popen(
        [sys.executable, "-c", prologue + code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for number in range(40):
            table.put(b"%d" % number, bytes(100_000))
            table.commit()
        table.put(b"k", b"1")
        table.commit()
        output, _ = child.communicate("go\n", timeout=60)
    assert output == "b'1'\n"
    table.close()


def test_a_reader_may_not_write(path: Path) -> None:
    LmdbTable(path).close()
    table = LmdbTable(path, read_only=True)
    with pytest.raises(AssertionError):
        table.put(b"a", b"1")
    with pytest.raises(AssertionError):
        table.delete(b"a")
    table.close()


def test_any_thread_may_go_on_where_another_left_off(path: Path) -> None:
    """Begun, written, read, committed and abandoned by threads in turn, each of which has ended by then."""
    table = LmdbTable(path)
    turns: list[Callable[[], None]] = [
        lambda: table.put(b"a", b"1"),
        lambda: table.put(b"b", b"2"),
        lambda: table.delete(b"b"),
        table.commit,
        lambda: table.put(b"a", b"3"),
        table.abandon,
        lambda: table.put(b"c", b"4"),
        table.sync,
    ]
    for turn in turns:
        thread = threading.Thread(target=turn)
        thread.start()
        thread.join()
    assert list(table.scan(b"", END)) == [(b"a", b"1"), (b"c", b"4")]
    table.close()
    assert list(LmdbTable(path, read_only=True).scan(b"", END)) == [(b"a", b"1"), (b"c", b"4")]


# Damage.


def test_a_file_that_is_something_else(path: Path) -> None:
    for content in (b"x", b"not a table\n" * 1000, bytes(100_000)):
        path.write_bytes(content)
        for read_only in (False, True):
            with pytest.raises(Corruption, match="not a sound LMDB file") as caught:
                LmdbTable(path, read_only=read_only)
            assert isinstance(caught.value.__cause__, lmdb.Error)
        assert path.read_bytes() == content


def test_an_empty_file_is_an_empty_table(path: Path) -> None:
    path.touch()
    with pytest.raises(FileNotFoundError):
        LmdbTable(path, read_only=True)
    table = LmdbTable(path)
    assert table.first(b"", END) is None
    table.close()


def test_what_is_absent_is_absent(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LmdbTable(path, read_only=True)
    with pytest.raises(FileNotFoundError):
        LmdbTable(path / "below")


def test_a_truncated_file_is_corruption(path: Path) -> None:
    table = LmdbTable(path)
    for number in range(3000):
        table.put(b"%d" % number, bytes(100))
    table.commit()
    used = storage.table.lmdb._used_bytes(table._environment)
    table.close()
    os.truncate(path, used)
    LmdbTable(path).close()  # Only the hole at the end is gone: that is harmless, and mended.
    assert path.stat().st_size >= used
    for length in (used - 1, used - 4096, 8192, 5000, 100):
        os.truncate(path, length)
        for read_only in (False, True):
            with pytest.raises(Corruption):
                LmdbTable(path, read_only=read_only)


def test_a_sound_file_is_never_called_truncated(path: Path) -> None:
    # LMDB may leave the last pages unwritten; the file must be longer than it says even so.
    choice = random.Random(54)
    table = LmdbTable(path)
    for _ in range(150):
        for _ in range(choice.choice([1, 5, 50, 400])):
            key = b"%05d" % choice.randrange(600)
            if choice.random() < 0.5:
                table.put(key, bytes(choice.choice([5, 500, 3000, 20_000])))
            else:
                table.delete(key)
        if choice.random() < 0.1:
            for key, _ in list(table.scan(b"", END)):
                table.delete(key)
        table.commit()
        assert path.stat().st_size >= storage.table.lmdb._used_bytes(table._environment)
    table.close()


def test_a_flipped_bit_is_damage_and_not_an_answer(path: Path) -> None:
    """What is read is what was written, or refused, or the walk comes out short; LMDB itself may also fall over."""
    table = LmdbTable(path)
    for key, value in ROWS.items():
        table.put(key, value)
    table.commit()
    table.close()
    # In a process that is small: it forks once a flip, and a fork copies its tables of pages.
    code = (
        "from tests.storage.table import test_lmdb; print(*test_lmdb.look_at_all(path), sep='\\n')"
    )
    child = run(path, code)
    assert child.stderr == ""
    seen = Counter(child.stdout.splitlines())
    assert not seen["wrong"], seen
    assert seen["refused"] > 50, seen
    assert seen["right"] > 50, seen  # The page is not full.


def root_page(path: Path) -> int:
    """The number of the page with all rows: what the newer of LMDB's two meta pages says (MDB_meta in its mdb.c)."""
    whole = path.read_bytes()
    metas = (struct.unpack_from("<Q8xQ", whole, page * 4096 + 128) for page in (0, 1))
    root, _ = max(metas, key=lambda meta: meta[1])
    return root


def look_at_all(path: str) -> list[str]:
    """What comes of a flip of every 67th bit of the page with the rows, one at a time."""
    start = root_page(Path(path)) * 4096
    return [look_at(Path(path), bit) for bit in range(start * 8, (start + 4096) * 8, 67)]


def look_at(path: Path, bit: int) -> str:
    """Flip a bit, read everything in a child, since LMDB may touch what is not there, and flip it back."""
    storage.table.lmdb._damage_mark(path).unlink(missing_ok=True)
    with path.open("r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
        answer = look(path)
        os.pwrite(file.fileno(), byte, bit // 8)
    return answer


def look(path: Path) -> str:
    words = ["right", "refused", "wrong", "fell over"]
    child = os.fork()
    if not child:
        answer = 3  # Such as MemoryError: a flipped length asks for gigabytes, which not every machine has.
        try:
            answer = 0 if is_as_written(LmdbTable(path, read_only=True), ROWS) else 2
        except Corruption:
            answer = 1
        finally:
            os._exit(answer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return words[status] if status >= 0 else "fell over"


def is_as_written(table: LmdbTable, rows: dict[bytes, bytes]) -> bool:
    found = dict(table.scan(b"", END))
    if len(found) != table.row_count():
        raise Corruption("rows are missing")
    return found == rows and all(table.get(key) == value for key, value in rows.items())


# Full.


def test_a_full_disk_is_enospc_and_the_table_lives_on(path: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import errno, subprocess\n"
        f"disk = {str(disk)!r}\n"
        "subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', disk], check=True)\n"
        "table = LmdbTable(disk + '/table')\n"
        "table.put(b'a', b'1'); table.commit()\n"
        "try:\n"
        "    for number in range(1000): table.put(b'%d' % number, bytes(10_000))\n"
        "    table.commit()\n"
        "except OSError as error:\n"
        "    print(error.errno == errno.ENOSPC, type(error.__cause__).__module__)\n"
        "table.abandon()\n"
        "print(list(table.scan(b'', b'z')))\n"
        "table.put(b'b', b'2'); table.commit(); table.sync()\n"
        "print(list(table.scan(b'', b'z'))); table.close()\n"
    )
    child = run(path, code, "unshare", "--user", "--map-root-user", "--mount")
    assert child.stderr == ""
    assert child.stdout.splitlines() == [
        "True lmdb",
        "[(b'a', b'1')]",
        "[(b'a', b'1'), (b'b', b'2')]",
    ]


def test_a_full_map_is_enospc_and_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.table.lmdb, "MAP_BYTES_MIN", 1024 * 1024)
    monkeypatch.setattr(storage.table.lmdb, "UPKEEP_TRANSACTIONS", 4)
    table = LmdbTable(path)
    with pytest.raises(OSError, match="map is full") as caught:
        table.put(b"a", bytes(2 * 1024 * 1024))
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value.__cause__, lmdb.MapFullError)
    table.abandon()
    for number in range(100):
        table.put(b"%d" % number, bytes(100_000))
        table.commit()
    assert len(list(table.scan(b"", END))) == 100
    table.close()
    table = LmdbTable(path)  # A larger map than MAP_BYTES_MIN from the start.
    assert len(list(table.scan(b"", END))) == 100
    table.close()
