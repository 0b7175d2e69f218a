"""SQLite on the mount, in WAL and in rollback mode, used by two processes at once: locks, shared memory, fsync."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from tests.mounted.program import end, finish, run, start_python

pytestmark = pytest.mark.mounted


@pytest.fixture
def place(shared_mount, request: pytest.FixtureRequest) -> Path:
    """A directory of its own on the mount of the whole run."""
    path = shared_mount.path / request.node.name
    path.mkdir()
    return path


_WORKER = """
    import sqlite3, sys
    path, who, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    for turn in range(turns):
        db.execute("BEGIN IMMEDIATE")
        (balance,) = db.execute("SELECT balance FROM account").fetchone()
        db.execute("UPDATE account SET balance = ?", (balance + 1,))
        db.execute("INSERT INTO entry (who, turn, payload) VALUES (?, ?, ?)", (who, turn, "p" * (turn * 37 % 3000)))
        db.execute("COMMIT")
    db.close()
"""


def make_database(path: Path, mode: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    database.execute("CREATE TABLE account (balance INTEGER)")
    database.execute("INSERT INTO account VALUES (0)")
    database.execute(
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, who TEXT, turn INTEGER, payload TEXT)"
    )
    database.execute("CREATE INDEX by_who ON entry (who, turn)")
    database.close()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_two_processes_share_a_database(mount, mode: str, tmp_path: Path) -> None:
    """Two writers and a reader on one database: no update is lost, no reader sees half a transaction."""
    path = mount.path / "bank.db"
    make_database(path, mode)
    turns = 15
    writers = [start_python(_WORKER, path, who, str(turns)) for who in ("left", "right")]
    reader = sqlite3.connect(path, timeout=30, isolation_level=None)
    seen = 0
    while any(process.poll() is None for process in writers):
        reader.execute("BEGIN")
        (balance,) = reader.execute("SELECT balance FROM account").fetchone()
        (entries,) = reader.execute("SELECT count(*) FROM entry").fetchone()
        reader.execute("COMMIT")
        assert balance == entries >= seen
        seen = entries
    finish(writers)
    assert reader.execute("SELECT balance FROM account").fetchone() == (2 * turns,)
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()
    dump = run("sqlite3", path, ".dump")
    assert dump.count("INSERT INTO entry") == 2 * turns
    mount.remount()
    assert (
        run("sqlite3", path, "PRAGMA integrity_check; SELECT count(*) FROM entry")
        == f"ok\n{2 * turns}\n"
    )
    assert run("sqlite3", path, ".dump") == dump


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_killed_writer_leaves_a_sound_database(place, mode: str) -> None:
    """kill -9 of a program in the middle of its transactions: the next one rolls back and goes on."""
    path = place / "bank.db"
    make_database(path, mode)
    for turns in (3, 11):
        process = start_python(_WORKER, path, "killed", "100000")
        database = sqlite3.connect(path, timeout=30)
        start_count = database.execute("SELECT count(*) FROM entry").fetchone()[0]
        while database.execute("SELECT count(*) FROM entry").fetchone()[0] < start_count + turns:
            pass
        end(process)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (balance,) = database.execute("SELECT balance FROM account").fetchone()
        assert database.execute("SELECT count(*) FROM entry").fetchone() == (balance,)
        database.close()
    finish([start_python(_WORKER, path, "after", "2")])


def test_an_old_state_of_a_database_opens_from_the_past(place) -> None:
    """A database closed cleanly is a version: yesterday's rows are read from bank.db@v..., untouched by today's."""
    path = place / "bank.db"
    make_database(path, "delete")
    finish([start_python(_WORKER, path, "first", "3")])
    os.mkdir(place / ".@tag-before")
    finish([start_python(_WORKER, path, "second", "4")])
    assert run("sqlite3", path, "SELECT count(*) FROM entry") == "7\n"
    past = f"file:{place}/.@tag-before/bank.db?immutable=1&mode=ro"
    assert (
        run("sqlite3", past, "SELECT count(*), max(who) FROM entry; PRAGMA integrity_check")
        == "3|first\nok\n"
    )


def test_vacuum_backup_and_a_big_import(place, tmp_path: Path) -> None:
    """VACUUM INTO, .backup and 20,000 rows in one transaction, with the mapping SQLite can be told to use."""
    path = place / "big.db"
    database = sqlite3.connect(path)
    database.execute("PRAGMA mmap_size=268435456")
    database.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    database.executemany(
        "INSERT INTO t VALUES (?, ?)", ((k, bytes([k % 256]) * (k % 300)) for k in range(20_000))
    )
    database.commit()
    (total,) = database.execute("SELECT sum(length(v)) FROM t").fetchone()
    database.execute("DELETE FROM t WHERE k % 2")
    database.commit()
    database.execute("VACUUM")
    database.execute(f"VACUUM INTO '{place}/copy.db'")
    database.close()
    run("sqlite3", path, f".backup '{tmp_path}/backup.db'")
    for copy in (place / "copy.db", tmp_path / "backup.db", path):
        said = run("sqlite3", copy, "PRAGMA integrity_check; SELECT count(*) FROM t")
        assert said == "ok\n10000\n"
    assert total > 0
