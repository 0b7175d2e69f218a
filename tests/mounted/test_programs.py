"""`cascadefs.connect` beside a mount: programs and files see each other (SEMANTICS, "Programs")."""

from __future__ import annotations

import os
import threading
import time

import pytest

import cascadefs
from storage.errors import Unusable

pytestmark = pytest.mark.mounted

LATER_SECONDS = 20


def shows(path, data: bytes) -> bool:
    """Whether a file comes to hold this, once the kernel has heard of it."""
    end = time.monotonic() + LATER_SECONDS
    while time.monotonic() < end:
        if path.exists() and path.read_bytes() == data:
            return True
        time.sleep(0.01)
    return False


def test_programs_and_files_see_each_other(mount):
    for where in (mount.path, mount.data):
        with cascadefs.connect(where) as client:
            (mount.path / "from-file").write_text("one")
            assert client.get("from-file") == b"one"
            version = client.put("made/from-program", "two")
            assert shows(mount.path / "made/from-program", b"two")
            client.put("made/from-program", "three", expect=version.number)
            assert shows(mount.path / "made/from-program", b"three")
            name = f"from-program@v{version.number}"
            assert (mount.path / "made" / name).read_text() == "two"
            client.delete("made/from-program")
            client.delete("from-file")
    assert os.listdir(mount.path / "made") == []


def test_what_the_kernel_had_in_its_cache_is_renewed(mount):
    path = mount.path / "a"
    with cascadefs.connect(mount.path) as client:
        assert not path.exists()
        client.put("a", "1")
        assert shows(path, b"1")
        with path.open("rb") as file:
            assert file.read() == b"1"
            client.put("a", "22")
            assert shows(path, b"22")
        client.delete("a")
        end = time.monotonic() + LATER_SECONDS
        while path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not path.exists()


def test_a_watch_sees_what_is_written_through_the_mount(mount):
    seen = []
    with cascadefs.connect(mount.path) as client:
        token = client.look("*", "")[1]
        for number in range(20):
            (mount.path / f"f{number}").write_text("x")
        for change in client.watch("f*", after=token):
            seen.append(change.path)
            if len(seen) == 20:
                break
    assert seen == [f"f{number}" for number in range(20)]


def test_a_daemon_that_is_killed_and_starts_again_is_a_pause(mount):
    with cascadefs.connect(mount.path) as client:
        client.append("log", "a")
        mount.kill()
        starter = threading.Timer(0.5, mount.mount)
        starter.start()
        assert client.append("log", "b").number == 2
        starter.join()
        assert client.get("log") == b"ab"


def test_a_directory_nobody_has_mounted_any_more_is_opened(mount):
    (mount.path / "a").write_text("1")
    mount.umount()
    assert not (mount.data / "socket").exists()
    with cascadefs.connect(mount.data) as client:
        assert client.get("a") == b"1"
        with pytest.raises(Unusable):
            cascadefs.connect(mount.data)


def test_a_mount_without_a_way_for_programs_says_so(make_mount):
    mount = make_mount(volatile=True)
    with pytest.raises(OSError, match="programs cannot connect"):
        cascadefs.connect(mount.path)


def test_a_user_is_whom_the_kernel_says(make_public_mount):
    mount = make_public_mount()
    mount.data.chmod(0o711)
    with cascadefs.connect(mount.data) as client:
        client.put("closed", "x", mode=0o600)
        client.put("open", "y")
    child = os.fork()
    if child == 0:  # another user, with what is loaded already: ours may not be able to read it
        told = 0
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            with cascadefs.connect(mount.data) as client:
                told |= client.get("open") == b"y"
                for bit, refused in (
                    (2, lambda: client.get("closed")),
                    (4, lambda: client.put("mine", "x")),
                ):
                    try:
                        refused()
                    except PermissionError:
                        told |= bit
        finally:
            os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1 | 2 | 4
