"""Files as the log needs them: a contract, the real one, and one in memory that can lose power.

The contract is small and synchronous. Nothing is durable until it was synced: the bytes and size of a file by
`File.fdatasync`, its name by `Disk.sync_directory` of the directory it is in. `MemoryDisk` keeps to the letter of
that. Both pass one contract suite (``tests/storage/test_disk.py``).

Names are relative to the disk's own directory, ``/`` between parts. This room knows no format and decides nothing;
an `OSError` of the system goes to the caller as it is.

Rooms: `contract`, `real`, `memory`.
"""

from storage.disk.contract import Disk, File
from storage.disk.memory import SECTOR_BYTES, MemoryDisk
from storage.disk.real import RealDisk

__all__ = ["SECTOR_BYTES", "Disk", "File", "MemoryDisk", "RealDisk"]
