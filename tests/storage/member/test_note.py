"""Goal: of a replica's note the last one kept, or the one before, is found after any crash; never a mixture.

Method: notes kept on the memory disk; every prefix of what a power cut leaves, the next write torn; every byte flipped.
"""

import pytest

from storage.disk import MemoryDisk
from storage.member import NoteFile
from storage.replication import Note

BOOT, OTHER = b"b" * 16, b"o" * 16
NOTES = [Note(0, True), Note(2**63, False), Note(5, True), Note(6, True), Note(7, False)]


def kept(*notes, durable=True):
    disk = MemoryDisk()
    file = NoteFile(disk, BOOT)
    for note in notes:
        file.keep(note, durable=durable)
    return disk


def test_what_was_kept_last_is_found():
    assert NoteFile(MemoryDisk(), BOOT).found is None
    for count in range(1, len(NOTES) + 1):
        disk = kept(*NOTES[:count])
        found = NoteFile(disk.crash(), BOOT)
        assert (found.found, found.is_of_this_boot) == (NOTES[count - 1], True)
        assert not NoteFile(disk, OTHER).is_of_this_boot


@pytest.mark.parametrize("torn", range(65))
def test_a_power_cut_leaves_the_last_or_the_one_before(torn):
    disk = kept(*NOTES[:3])
    file = NoteFile(disk, BOOT)

    def cut(call, name):
        if call == "fdatasync":
            raise OSError("no power")

    disk.before = cut
    crashes = []
    disk.lose = lambda inode: crashes.append(disk.crash(0, torn))
    with pytest.raises(OSError, match="no power"):
        file.keep(NOTES[3], durable=True)
    (left,) = crashes
    assert NoteFile(left, BOOT).found in ((NOTES[3],) if torn == 64 else (NOTES[2], NOTES[3]))


def test_a_flipped_byte_is_never_believed():
    for at in [*range(64), *range(512, 576)]:
        disk = kept(*NOTES[:4])
        disk.rot("note", at, 0x20)
        found = NoteFile(disk, BOOT)
        assert found.found in NOTES[2:4]
        found.keep(NOTES[4], durable=True)
        assert NoteFile(disk, BOOT).found == NOTES[4]
