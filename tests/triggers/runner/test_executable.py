"""Goal: a shell script is a whole lambda, and a confined one. Method: scripts in bubblewrap, and without it (normal)."""

from __future__ import annotations

import os

import msgspec
import pytest
import trio

from tests.triggers.cuts import DictCut
from tests.triggers.runner.conftest import NOBODY, run_of, script
from triggers.run import Done, Failed, Put, timestamp_text
from triggers.runner.executable import collect
from triggers.worker import bubblewrap

TEXT = b"hello world\n" * 1000


@pytest.fixture
def cut():
    return DictCut({"frames/1.txt": [b"old", TEXT]})


@pytest.fixture
def execute(pool, cut):
    async def execute(body: str, **fields):
        event = cut.event("frames/1.txt", 2, id="e2", hops=3, groups={"n": "1"})
        event = msgspec.structs.replace(event, timestamp=1_767_602_130_000_007)
        tried = script(f"#!/bin/sh\n{body}\n", kind="executable", id=f"{hash(body)}")
        run = run_of(tried, None, event, **{"emit": "thumbs/"} | fields)
        return await pool.run(run, cut)

    return execute


@pytest.mark.parametrize("level", ["strict", "normal"])
async def test_data_comes_in_twice_facts_in_the_environment_and_files_go_out(execute, level):
    done = await execute(
        """
wc -c; wc -c < /proc/self/fd/3; id -u; env | grep ^CASCADE_ | grep -v OUT | sort >&2
tr a-z A-Z < /proc/self/fd/3 > $CASCADE_OUT/$CASCADE_NAME
mkdir $CASCADE_OUT/deep; echo x > $CASCADE_OUT/deep/y; chmod 600 $CASCADE_OUT/deep/y
ln -s /etc/passwd $CASCADE_OUT/link; mkfifo $CASCADE_OUT/pipe
echo no > /proc/self/fd/3; true
""",
        sandbox=level,
    )
    assert isinstance(done, Done), done
    assert done.effects == [Put("thumbs/1.txt", TEXT.upper()), Put("thumbs/deep/y", b"x\n", 0o600)]
    lines = done.output.decode().splitlines()
    assert lines[:3] == ["12000", "12000", str(NOBODY)]
    assert lines[3:13] == [
        "CASCADE_ATTEMPT=1",
        "CASCADE_CUT=2026-01-05T08:35:30.000007Z",
        "CASCADE_EVENT=e2",
        "CASCADE_HOPS=3",
        "CASCADE_KIND=write",
        "CASCADE_MATCH_n=1",
        "CASCADE_NAME=1.txt",
        "CASCADE_PATH=frames/1.txt",
        "CASCADE_RUN=r~1",
        "CASCADE_TIME=2026-01-05T08:35:30.000007Z",
    ]
    assert "/proc/self/fd/3" in lines[-1]  # sealed: nobody writes to it


async def test_without_emit_results_lie_at_the_base(execute):
    done = await execute("echo x > $CASCADE_OUT/x", emit=None)
    assert done.effects == [Put("x", b"x\n")]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("exit 75", "retry", "exit status 75 (EX_TEMPFAIL): said"),
        ("exit 65", "reject", "exit status 65 (EX_DATAERR): said"),
        ("exit 3", "exit", "exit status 3: said"),
        ("kill -9 $$", "signal", "died of SIGKILL: said"),
        ("nonsuch 2>&1", "exit", "exit status 127: "),
    ],
)
async def test_the_exit_status_is_the_outcome_and_a_failure_leaves_nothing(
    execute, body, kind, message
):
    failed = await execute(f"echo x > $CASCADE_OUT/x; echo said; {body}")
    assert isinstance(failed, Failed)
    assert failed.kind == kind
    assert failed.message.startswith(message)
    assert "nonsuch" not in body or "nonsuch: not found" in failed.message
    assert failed.output.startswith(b"said\n")


async def test_nothing_but_the_results_can_be_written_and_nothing_else_seen(execute, tmp_path):
    done = await execute("""
for path in /usr/x /etc/x /watch/x /x /watch/s.sh; do echo x > $path; done 2>/dev/null
ls / | tr '\\n' ' '; ls /proc | grep -c '^[0-9]'; ls /watch; ls /home /root /work 2>/dev/null
echo fine > /tmp/x
""")
    listing = done.output.decode().splitlines()[0].split()
    assert set(listing[:-1]) <= {
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "out", "proc", "sbin", "tmp", "usr", "watch"
    }  # fmt: skip
    assert int(listing[-1]) < 10  # its own processes
    assert done.output.decode().splitlines()[1:] == ["s.sh"]


async def test_the_cut_is_a_directory_where_there_is_a_mount(execute, tmp_path):
    (tmp_path / "model").write_text("m1")
    for path in (tmp_path, *list(tmp_path.parents)[:-1]):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o055)
    done = await execute(
        "cat $CASCADE_IN/model; echo x > $CASCADE_IN/model", cut_directory=str(tmp_path)
    )
    assert done is not None
    assert done.output.startswith(b"m1"), done
    assert b"Read-only file system" in done.output


async def test_there_is_no_network_and_no_new_privilege(execute):
    done = await execute("""
python3 -c 'import socket; socket.socket()' 2>&1 | tail -1
grep -E 'NoNewPrivs|CapEff' /proc/self/status
""")
    assert done.output.decode().splitlines() == [
        "PermissionError: [Errno 1] Operation not permitted",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ]


async def test_an_executable_of_roots_has_no_powers_either(pool, cut):
    if os.getuid() != 0:
        return  # only root can make somebody root
    pool.settings = msgspec.structs.replace(pool.settings, allow_root=True)
    tried = script("#!/bin/sh\ngrep CapEff /proc/self/status; id -u; ls /root", kind="executable")
    tried = msgspec.structs.replace(tried, uid=0, gid=0)
    done = await pool.run(run_of(tried, None, cut.event("frames/1.txt", 1)), cut)
    lines = done.output.decode().splitlines()
    assert lines[:2] == ["CapEff:\t0000000000000000", "0"], done
    assert "No such file" in lines[2]


async def test_a_fork_bomb_is_bounded_and_ends_with_its_time(execute):
    failed = await execute("b() { b | b & }; b; sleep 100", timeout_ms=1000)
    assert failed.kind in ("timeout", "exit"), failed
    assert b"fork" in failed.output


async def test_time_over_and_kill_end_everything_it_started(execute, pool):
    failed = await execute("sleep 1000 & sleep 1000", timeout_ms=200)
    assert (failed.kind, failed.message) == ("timeout", "no end after 200 ms")
    outcome = []

    async def go():
        outcome.append(await execute("sleep 1000"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        while not pool.kill("r~1"):
            await trio.lowlevel.checkpoint()
    assert outcome[0].kind == "killed"
    assert pool.state().workers == 0


async def test_without_bubblewrap_a_strict_executable_is_refused(execute, monkeypatch):
    monkeypatch.setattr(bubblewrap, "find", lambda: None)
    failed = await execute("echo x > $CASCADE_OUT/x")
    assert failed.kind == "load"
    assert "bubblewrap is not installed" in failed.message


async def test_a_batch_is_refused(pool, cut):
    events = [cut.event("frames/1.txt", n) for n in (1, 2)]
    tried = script("#!/bin/sh\n", kind="executable")
    failed = await pool.run(run_of(tried, None, *events, is_batch=True), cut)
    assert (failed.kind, "one event" in failed.message) == ("load", True)


def test_results_are_read_without_following_anything(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "out" / "directory").symlink_to(tmp_path)
    (tmp_path / "out" / "b").write_bytes(b"b")
    (tmp_path / "out" / "a").write_bytes(b"")
    effects = collect(str(tmp_path / "out"), "x/")
    assert [(effect.path, effect.data) for effect in effects] == [("x/a", b""), ("x/b", b"b")]


def test_times_are_written_as_the_file_system_reads_them():
    assert timestamp_text(1_767_602_130_000_007) == "2026-01-05T08:35:30.000007Z"


async def test_what_is_too_long_for_memory_comes_as_a_file_that_nobody_can_change(
    execute, cut, monkeypatch
):
    monkeypatch.setattr("triggers.runner.executable.CONTENT_BYTES_MAX", 5 << 20)
    cut.files_["frames/1.txt"][1] = bytes(9 << 20) + TEXT
    done = await execute(
        "tail -c 12 <&0; wc -c < /proc/self/fd/3; echo no > /proc/self/fd/3; tail -c 12 /proc/self/fd/3"
    )
    assert isinstance(done, Done), done
    lines = done.output.decode().splitlines()
    assert lines[:2] == ["hello world", str((9 << 20) + len(TEXT))]
    assert lines[-1] == "hello world"
