"""The two files QEMU boots, from unpacked Debian packages: `image.py RELEASE_TREE BUSYBOX TARGET`.

``vmlinux``: the kernel out of its compressed file. QEMU enters an ELF kernel directly (PVH), so the emulated processor
need not run a boot loader and the decompressor: 7 s instead of 11 to 16.

``initrd.cpio``: a static busybox, the modules the guest needs in the order they load, and init_qemu. Modules name what they
depend on in a section of their own (``depends=``), so neither depmod nor an installed kernel is needed; what is only asked for
at run time (rxe asks for the digest "crc32") has to be named here. Format: cpio "newc", as the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst has it.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import IO

MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay", "fuse"),
    *("virtio_net", "veth", "dummy", "bridge", "sch_netem"),
    *("crc32_generic", "crc32c_generic", "crc32_pclmul", "ib_uverbs", "rdma_ucm", "rdma_rxe"),
)
ELF = b"\x7fELF"


def unxz(packed: bytes) -> bytes:
    """What the xz stream at the start holds, whatever follows it."""
    return lzma.LZMADecompressor().decompress(packed)


def ungzip(packed: bytes) -> bytes:
    """As `unxz`, of gzip."""
    return zlib.decompressobj(31).decompress(packed)


def unzstd(packed: bytes) -> bytes:
    """As `unxz`, of zstd, for which the standard library has nothing yet."""
    if shutil.which("zstd") is None:
        raise ValueError("this kernel is packed with zstd, a program that is not here")
    return subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=False).stdout


PACKERS = ((b"\xfd7zXZ\0", unxz), (b"\x1f\x8b\x08", ungzip), (b"\x28\xb5\x2f\xfd", unzstd))


def unpack_kernel(image: bytes) -> bytes:
    """The ELF file that is packed somewhere inside a bzImage.

    Raises:
        ValueError: There is none.
    """
    for magic, unpack in PACKERS:
        at = image.find(magic)
        while at >= 0:
            try:
                kernel = unpack(image[at:])
            except (lzma.LZMAError, zlib.error):
                kernel = b""  # the magic was there by chance
            if kernel.startswith(ELF):
                return kernel
            at = image.find(magic, at + 1)
    raise ValueError("no ELF kernel in this image")


def depends(module: bytes) -> list[str]:
    """The names of the modules that this one (an ELF file) says it needs."""
    for entry in module.split(b"\0"):
        if entry.startswith(b"depends="):
            names = entry.removeprefix(b"depends=").decode("ascii").split(",")
            return [name.replace("-", "_") for name in names if name]
    return []


def in_order(wanted: tuple[str, ...], tree: Path) -> dict[str, bytes]:
    """These modules and all they need, in an order in which they load; what is no module is built in."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in files:
            return
        packed = files[name].read_bytes()
        module = unxz(packed) if files[name].suffix == ".xz" else packed
        for other in depends(module):
            load(other)
        loaded[name] = module

    for name in wanted:
        load(name)
    return loaded


class Cpio:
    """Writes an archive to `file`, member by member."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.members = 0

    def add(
        self,
        name: str,
        content: bytes = b"",
        mode: int = 0o100755,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        """One member; a directory is one with mode 0o040755."""
        self.members += 1
        named = name.encode() + b"\0"
        fields = (self.members, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(named), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (head + named, content):
            self.file.write(part + bytes(-len(part) % 4))

    def end(self) -> None:
        """The trailer."""
        self.add("TRAILER!!!", mode=0)


def main() -> None:
    """See the module."""
    tree, busybox, target = map(Path, sys.argv[1:])
    (image,) = (tree / "boot").glob("vmlinuz-*")
    (target / "vmlinux").write_bytes(unpack_kernel(image.read_bytes()))
    modules = in_order(MODULES, tree / "lib/modules")
    with (target / "initrd.cpio").open("wb") as file:
        archive = Cpio(file)
        for directory in ("bin", "dev", "proc", "sys", "root", "modules"):
            archive.add(directory, mode=0o040755)
        archive.add("dev/console", mode=0o020600, device=(5, 1))
        archive.add("bin/busybox", busybox.read_bytes())
        archive.add("init", Path(__file__).with_name("init_qemu").read_bytes())
        archive.add("modules/order", "".join(f"{name}\n" for name in modules).encode())
        for name, module in modules.items():
            archive.add(f"modules/{name}.ko", module, mode=0o100644)
        archive.end()


if __name__ == "__main__":
    main()
