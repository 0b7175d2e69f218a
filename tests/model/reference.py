"""The reference: a tree, and a list of everything it ever was, said as directly as Python can.

Written from docs/SEMANTICS.md and the manual pages, and sharing no line with the product: nothing here is clever, and
nothing is fast. A `Moment` is a whole copy of all that was committed, taken after every commit; a version is a number
in a list and the moment it was made at; the past is looked up by looking at the moment.

Names are text, an inode is a number of our own (the product's are told apart by `Pair`), times are indices of moments.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT = 0
FILE, DIRECTORY, LINK = "file", "directory", "link"
LINKS_FOLLOWED_MAX = 40


class Refusal(Exception):
    """A call that must fail, with any of these errnos: where several reasons hold, POSIX leaves the order open."""

    def __init__(self, *errnos: str) -> None:
        super().__init__(" or ".join(errnos))
        self.errnos = frozenset(errnos)


class Look(NamedTuple):
    """What stat(2), read(2), readlink(2) and getxattr(2) show of an inode. `mtime` None: whatever it is."""

    kind: str
    mode: int
    links: int
    data: bytes
    xattrs: tuple[tuple[str, bytes], ...] = ()
    mtime: int | None = None


@dataclass
class Inode:
    """`data` and `mtime` are what every process sees; the `saved_` ones are those of the last version."""

    kind: str
    mode: int
    data: bytes = b""
    saved_data: bytes = b""
    mtime: int | None = None
    saved_mtime: int | None = None
    xattrs: dict[str, bytes] = field(default_factory=dict)
    commits: list[int] = field(default_factory=list)
    draft: int | None = None
    draft_since: float = 0.0
    handles: int = 0


@dataclass
class Handle:
    """An open file. `frozen`: the bytes of a version, for a handle on the past."""

    inode: int
    reads: bool
    writes: bool
    appends: bool = False
    wrote: bool = False
    pending: bool = False
    frozen: bytes | None = None
    process: int = 0


class Version(NamedTuple):
    """A number of a name: `inode` as it was at the moment `when`."""

    inode: int
    when: int
    kind: str
    origin: tuple[int, str] | None


class Gone(NamedTuple):
    """A number of a name that says: it means nothing from here on."""

    when: int
    moved_to: tuple[int, str] | None


@dataclass
class Moment:
    """All that was committed.

    `time` is the product's, in microseconds; None where it was not learned. `started`: when the call was made.
    """

    trees: dict[int, dict[str, int]]
    looks: dict[int, Look]
    labels: dict[tuple[int, str], int]
    causes: dict[tuple[int, str], tuple[str, tuple[int, str] | None]]
    time: int | None = None
    started: int = 0


class Spec(NamedTuple):
    """Which past of a name is meant: ("v", 3), ("v-", 1), ("at", moment), ("tag", "l"), ("deleted", None)."""

    kind: str
    value: int | str | None


class Reference:
    """See the module. Calls are those of POSIX; they answer, or raise `Refusal` and change nothing."""

    def __init__(self) -> None:
        self.inodes = {ROOT: Inode(DIRECTORY, 0o755)}
        self.trees: dict[int, dict[str, int]] = {ROOT: {}}
        self.histories: dict[tuple[int, str], list[Version | Gone]] = {}
        self.causes: dict[tuple[int, str], tuple[str, tuple[int, str] | None]] = {}
        self.labels: dict[tuple[int, str], int] = {}
        self.handles: dict[int, Handle] = {}
        self.moments: list[Moment] = []
        self.synced = 0
        self.clock_s = 0.0
        self._drafts = 0
        self._remember()

    # --- what is, and what was ---------------------------------------------------------------------------------

    def look(self, number: int, *, now: bool) -> Look:
        """An inode as every process sees it, or as it is committed."""
        inode = self.inodes[number]
        if inode.kind == DIRECTORY:
            children = self.trees[number].values()
            links = 2 + sum(self.inodes[child].kind == DIRECTORY for child in children)
        else:
            links = len(self.names(number))
        xattrs = tuple(sorted(inode.xattrs.items()))
        data, mtime = inode.data, inode.mtime
        if not now:
            data, mtime = inode.saved_data, inode.saved_mtime
        return Look(inode.kind, inode.mode, links, data, xattrs, mtime)

    def names(self, number: int) -> list[tuple[int, str]]:
        """Every (directory, name) an inode is bound to."""
        return [(d, n) for d, tree in self.trees.items() for n, i in tree.items() if i == number]

    def _remember(self) -> None:
        """Something was committed: copy everything."""
        bound = Counter(i for tree in self.trees.values() for i in tree.values())
        looks = {n: self.look(n, now=False) for n in self.trees if n == ROOT or bound[n]}
        looks |= {n: self.look(n, now=False) for n in bound}
        trees = {n: dict(self.trees[n]) for n in looks if n in self.trees}
        self.moments.append(Moment(trees, looks, dict(self.labels), dict(self.causes)))

    def past(self, path: str, spec: Spec) -> tuple[int, int]:
        """(moment, inode) that `path@spec` means."""
        directory, name = self.parent(path)
        return self.past_of(directory, name, spec)

    def past_of(self, directory: int, name: str, spec: Spec) -> tuple[int, int]:
        """(moment, inode) of a name in a directory; "." is the directory itself."""
        if name == ".":
            if spec.kind == "at":
                if directory not in self.moments[spec.value].looks:
                    raise Refusal("ENOENT")
                return spec.value, directory
            if spec.kind == "tag" and (directory, spec.value) in self.labels:
                return self.labels[directory, spec.value], directory
            raise Refusal("ENOENT")
        history = self.histories.get((directory, name), [])
        if spec.kind in ("v", "v-"):
            number = spec.value if spec.kind == "v" else len(history) - spec.value
            if not 1 <= number <= len(history) or isinstance(history[number - 1], Gone):
                raise Refusal("ENOENT")
            return history[number - 1].when, history[number - 1].inode
        if spec.kind == "at":
            inode = self.moments[spec.value].trees.get(directory, {}).get(name)
            if inode is None:
                raise Refusal("ENOENT")
            return spec.value, inode
        if spec.kind == "tag":
            inode = self.last(directory, name)
            if inode is None or (inode, spec.value) not in self.labels:
                raise Refusal("ENOENT")
            return self.labels[inode, spec.value], inode
        assert spec.kind == "deleted"
        return self.deleted(directory, name)

    def last(self, directory: int, name: str) -> int | None:
        """The inode a name means, or meant last."""
        if name in self.trees.get(directory, {}):
            return self.trees[directory][name]
        versions = [v for v in self.histories.get((directory, name), []) if isinstance(v, Version)]
        return versions[-1].inode if versions else None

    def deleted(self, directory: int, name: str) -> tuple[int, int]:
        """(moment, inode) of a name that means nothing now, as it was last."""
        history = self.histories.get((directory, name), [])
        versions = [v for v in history if isinstance(v, Version)]
        if name in self.trees.get(directory, {}) or not versions:
            raise Refusal("ENOENT")
        last = versions[-1]
        if self.moments[last.when].looks[last.inode].kind == DIRECTORY:
            # What it held when it was last there under this name, not when it got the name.
            ends = [
                m
                for m in range(last.when, len(self.moments))
                if self._means(m, directory, name, last.inode)
            ]
            return ends[-1], last.inode
        return last.when, last.inode

    def _means(self, moment: int, directory: int, name: str, inode: int) -> bool:
        return self.moments[moment].trees.get(directory, {}).get(name) == inode

    def known(self, directory: int, name: str) -> bool:
        """Whether the name means or meant anything here."""
        return (
            name == "."
            or name in self.trees.get(directory, {})
            or bool(self.histories.get((directory, name)))
        )

    def path_of(self, directory: int, name: str) -> str | None:
        """The path of a name as its directory is reached now."""
        if directory == ROOT:
            return name
        for above, tree in self.trees.items():
            for bound, number in tree.items():
                if number == directory:
                    path = self.path_of(above, bound)
                    return None if path is None else f"{path}/{name}"
        return None

    # --- paths -------------------------------------------------------------------------------------------------

    def walk(self, path: str, *, follow: bool = True) -> int:
        """The inode a path leads to."""
        number, links = ROOT, 0
        stack = [ROOT]
        todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
        while todo:
            name = todo.pop()
            if self.inodes[stack[-1]].kind != DIRECTORY:
                raise Refusal("ENOTDIR")
            number = self.trees[stack[-1]].get(name)
            if number is None:
                raise Refusal("ENOENT")
            inode = self.inodes[number]
            if inode.kind == LINK and (todo or follow):
                links += 1
                if links > LINKS_FOLLOWED_MAX:
                    raise Refusal("ELOOP")
                todo += inode.data.decode().split("/")[::-1]
            else:
                stack.append(number)
        return stack[-1]

    def parent(self, path: str) -> tuple[int, str]:
        """(directory, last component)."""
        above, _, name = path.rpartition("/")
        directory = self.walk(above)
        if self.inodes[directory].kind != DIRECTORY:
            raise Refusal("ENOTDIR")
        return directory, name

    # --- names -------------------------------------------------------------------------------------------------

    def _new(self, directory: int, name: str, inode: Inode) -> int:
        number = max(self.inodes) + 1
        self.inodes[number] = inode
        if inode.kind == DIRECTORY:
            self.trees[number] = {}
        if inode.kind != FILE:
            inode.saved_data = inode.data
            inode.commits.append(len(self.moments))
        self._bind(directory, name, number, "create")
        self._remember()
        return number

    def _bind(
        self,
        directory: int,
        name: str,
        number: int,
        kind: str,
        origin: tuple[int, str] | None = None,
    ) -> None:
        self.trees[directory][name] = number
        self.causes[directory, name] = (kind, origin)
        if self.inodes[number].commits:
            self._number(directory, name, number)

    def _number(self, directory: int, name: str, number: int) -> None:
        """A version of a name. The first of a binding says how the name came by it."""
        kind, origin = self.causes.pop((directory, name), ("write", None))
        version = Version(number, len(self.moments), kind, origin)
        self.histories.setdefault((directory, name), []).append(version)

    def _unbind(self, directory: int, name: str, moved_to: tuple[int, str] | None = None) -> None:
        number = self.trees[directory].pop(name)
        self.causes.pop((directory, name), None)
        self.histories.setdefault((directory, name), []).append(Gone(len(self.moments), moved_to))
        self._drop(number)

    def _drop(self, number: int) -> None:
        """Without names and handles, what was written is nobody's."""
        inode = self.inodes[number]
        if not self.names(number) and not inode.handles:
            inode.draft = None

    def _vacant(self, path: str) -> tuple[int, str]:
        directory, name = self.parent(path)
        if name in self.trees[directory]:
            raise Refusal("EEXIST")
        return directory, name

    def mkdir(self, path: str, mode: int) -> None:
        directory, name = self._vacant(path)
        self._new(directory, name, Inode(DIRECTORY, mode))

    def mknod(self, path: str, mode: int) -> None:
        directory, name = self._vacant(path)
        number = self._new(directory, name, Inode(FILE, mode))
        self._begin(self.inodes[number])
        self._commit(number)

    def symlink(self, target: str, path: str) -> None:
        directory, name = self._vacant(path)
        self._new(directory, name, Inode(LINK, 0o777, target.encode()))

    def link(self, old: str, new: str) -> None:
        number = self.walk(old, follow=False)
        directory, name = self._vacant(new)
        if self.inodes[number].kind == DIRECTORY:
            raise Refusal("EPERM")
        self._bind(directory, name, number, "link")
        self._remember()

    def unlink(self, path: str) -> None:
        directory, name = self.parent(path)
        number = self.trees[directory].get(name)
        if number is None:
            raise Refusal("ENOENT")
        if self.inodes[number].kind == DIRECTORY:
            raise Refusal("EISDIR")
        self._unbind(directory, name)
        self._remember()

    def rmdir(self, path: str) -> None:
        directory, name = self.parent(path)
        number = self.trees[directory].get(name)
        if number is None:
            raise Refusal("ENOENT")
        if self.inodes[number].kind != DIRECTORY:
            raise Refusal("ENOTDIR")
        if self.trees[number]:
            raise Refusal("ENOTEMPTY")
        self._unbind(directory, name)
        self._remember()

    def _is_below(self, number: int, directory: int) -> bool:
        return number == directory or any(
            self._is_below(number, child)
            for child in self.trees[directory].values()
            if self.inodes[child].kind == DIRECTORY
        )

    def rename(self, old: str, new: str, *, noreplace: bool, exchange: bool) -> None:
        directory, name = self.parent(old)
        new_directory, new_name = self.parent(new)
        source = self.trees[directory].get(name)
        target = self.trees[new_directory].get(new_name)
        if source is None:
            raise Refusal("ENOENT")
        source_is_directory = self.inodes[source].kind == DIRECTORY
        target_is_directory = target is not None and self.inodes[target].kind == DIRECTORY
        reasons = set()
        if noreplace and target is not None:
            reasons.add("EEXIST")
        if exchange and target is None:
            reasons.add("ENOENT")
        if source_is_directory and self._is_below(new_directory, source):
            reasons.add("EINVAL")
        if target_is_directory and self._is_below(directory, target):
            reasons |= {"EINVAL"} if exchange else {"ENOTEMPTY"}
        if target is not None and target != source and not exchange:
            if target_is_directory and not source_is_directory:
                reasons.add("EISDIR")
            if source_is_directory and not target_is_directory:
                reasons.add("ENOTDIR")
            if target_is_directory and self.trees[target]:
                reasons.add("ENOTEMPTY")
        if reasons:
            raise Refusal(*reasons)
        if source == target:
            return
        if exchange:
            self._bind(directory, name, target, "move", (new_directory, new_name))
            self._bind(new_directory, new_name, source, "move", (directory, name))
        else:
            self._bind(new_directory, new_name, source, "move", (directory, name))
            self._unbind(directory, name, (new_directory, new_name))
            if target is not None:
                self._drop(target)
        self._remember()

    # --- metadata ----------------------------------------------------------------------------------------------

    def chmod(self, path: str, mode: int) -> None:
        self.inodes[self.walk(path)].mode = mode
        self._remember()

    def utime(self, path: str, mtime: int) -> None:
        inode = self.inodes[self.walk(path)]
        if inode.kind == FILE:
            inode.mtime = inode.saved_mtime = mtime
        self._remember()

    def setxattr(self, path: str, name: str, value: bytes, *, create: bool, replace: bool) -> None:
        xattrs = self.inodes[self.walk(path)].xattrs
        if create and name in xattrs:
            raise Refusal("EEXIST")
        if replace and name not in xattrs:
            raise Refusal("ENODATA")
        xattrs[name] = value
        self._remember()

    def removexattr(self, path: str, name: str) -> None:
        xattrs = self.inodes[self.walk(path)].xattrs
        if name not in xattrs:
            raise Refusal("ENODATA")
        del xattrs[name]
        self._remember()

    # --- drafts and versions -----------------------------------------------------------------------------------

    def _begin(self, inode: Inode) -> None:
        if inode.draft is None:
            self._drafts += 1
            inode.draft = self._drafts
            inode.draft_since = self.clock_s

    def _commit(self, number: int) -> None:
        """The draft becomes a version, under every name the file has now."""
        inode = self.inodes[number]
        names = self.names(number)
        if not names:
            return
        inode.draft = None
        inode.saved_data, inode.saved_mtime = inode.data, inode.mtime
        inode.commits.append(len(self.moments))
        for directory, name in names:
            self._number(directory, name, number)
        self._remember()

    def _file(self, path: str) -> int:
        number = self.walk(path)
        if self.inodes[number].kind == DIRECTORY:
            raise Refusal("EISDIR", "EINVAL")
        return number

    def truncate(self, path: str, size: int) -> None:
        number = self._file(path)
        inode = self.inodes[number]
        self._resize(inode, size)
        if not inode.handles:
            self._commit(number)

    def _resize(self, inode: Inode, size: int) -> None:
        self._begin(inode)
        inode.data = inode.data[:size].ljust(size, b"\0")
        inode.mtime = None

    def restore(self, path: str, spec: Spec) -> None:
        number = self.walk(path)
        inode = self.inodes[number]
        if inode.kind != FILE:
            raise Refusal("EINVAL", "EOPNOTSUPP")
        names = self.names(number)
        if len(names) != 1:
            raise Refusal("EOPNOTSUPP")
        moment, then = self.past_of(*names[0], spec)
        look = self.moments[moment].looks[then]
        if look.kind != FILE:
            raise Refusal("EINVAL")
        if inode.draft is not None and (inode.commits or inode.data):
            self._commit(number)
        self._begin(inode)
        inode.data, inode.mtime = look.data, None
        self._commit(number)

    def autocommit(self, patience_s: float) -> None:
        """Drafts that are old enough become versions, in the order they were begun."""
        for number in self._drafts_in_order():
            if self.clock_s - self.inodes[number].draft_since >= patience_s:
                self._commit(number)

    def _drafts_in_order(self) -> list[int]:
        drafts = {n: i.draft for n, i in self.inodes.items() if i.draft is not None}
        return sorted(drafts, key=drafts.__getitem__)

    # --- open files --------------------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        *,
        reads: bool,
        writes: bool,
        creat=False,
        excl=False,
        trunc=False,
        append=False,
    ) -> Handle:
        links = 0
        while creat:
            directory, name = self.parent(path)
            number = self.trees[directory].get(name)
            if number is None:
                number = self._new(directory, name, Inode(FILE, 0o644))
                inode = self.inodes[number]
                self._begin(inode)
                inode.handles += 1
                return Handle(number, reads, writes, append, pending=True)
            if excl:
                raise Refusal("EEXIST")
            if self.inodes[number].kind != LINK:
                break
            links += 1
            if links > LINKS_FOLLOWED_MAX:
                raise Refusal("ELOOP")
            path = "/".join([*path.split("/")[:-1], self.inodes[number].data.decode()])
        number = self.walk(path)
        inode = self.inodes[number]
        if inode.kind == DIRECTORY:
            raise Refusal("EISDIR")
        inode.handles += 1
        if trunc:
            self._resize(inode, 0)
        return Handle(number, reads, writes, append, pending=trunc)

    def open_past(self, path: str, spec: Spec) -> Handle:
        moment, number = self.past(path, spec)
        look = self.moments[moment].looks[number]
        if look.kind == DIRECTORY:
            raise Refusal("EISDIR")
        assert look.kind == FILE
        return Handle(number, reads=True, writes=False, frozen=look.data)

    def bytes_of(self, handle: Handle) -> bytes:
        return self.inodes[handle.inode].data if handle.frozen is None else handle.frozen

    def read(self, handle: Handle, offset: int, length: int) -> bytes:
        return self.bytes_of(handle)[offset : offset + length]

    def write(self, handle: Handle, offset: int, data: bytes) -> None:
        inode = self.inodes[handle.inode]
        if handle.appends:
            offset = len(inode.data)
        self._lay(handle, offset, data)

    def _lay(self, handle: Handle, offset: int, data: bytes) -> None:
        inode = self.inodes[handle.inode]
        self._begin(inode)
        before = inode.data.ljust(offset, b"\0")
        inode.data = before[:offset] + data + before[offset + len(data) :]
        inode.mtime = None
        handle.wrote = True

    def ftruncate(self, handle: Handle, size: int) -> None:
        self._resize(self.inodes[handle.inode], size)
        handle.wrote = True

    def allocate(
        self, handle: Handle, offset: int, length: int, *, zero: bool, keep_size: bool
    ) -> None:
        """fallocate(2): room, zeros, or (zero and keep_size) a hole."""
        if not handle.writes:
            raise Refusal("EBADF")
        data = self.inodes[handle.inode].data
        if not keep_size:
            data = data.ljust(offset + length, b"\0")
        if zero:
            end = min(offset + length, len(data))
            data = data[:offset] + bytes(max(0, end - offset)) + data[max(end, offset) :]
        self._lay(handle, 0, data)

    def copy(
        self, source: Handle, source_offset: int, target: Handle, offset: int, length: int
    ) -> None:
        """copy_file_range(2), of the length that the call said it did."""
        if length:
            self._lay(target, offset, self.read(source, source_offset, length))

    def flush(self, handle: Handle) -> None:
        """close(2) of a descriptor."""
        if handle.wrote:
            if self.inodes[handle.inode].draft is not None:
                self._commit(handle.inode)
            handle.wrote = handle.pending = False

    def close(self, handle: Handle) -> None:
        """close(2) of the last descriptor of a handle."""
        self.flush(handle)
        if handle.frozen is not None:
            return
        inode = self.inodes[handle.inode]
        inode.handles -= 1
        self._drop(handle.inode)
        if inode.draft is not None and (handle.pending or not inode.handles):
            self._commit(handle.inode)

    def fsync(self, handle: Handle) -> None:
        if handle.frozen is None:
            if self.inodes[handle.inode].draft is not None:
                self._commit(handle.inode)
            handle.wrote = handle.pending = False
            self.synced = len(self.moments) - 1

    # --- labels ------------------------------------------------------------------------------------------------

    def label(self, path: str, label: str) -> None:
        directory, name = self.parent(path)
        if name == ".":
            number = last = directory
        else:
            last, number = self.last(directory, name), self.trees[directory].get(name)
        if (last, label) in self.labels:
            raise Refusal("EEXIST")
        if number is None:
            raise Refusal("ENOENT")
        if self.inodes[number].kind != DIRECTORY:
            raise Refusal("ENOTDIR")
        self.labels[number, label] = len(self.moments) - 1
        self._remember()

    def unlabel(self, path: str, label: str) -> None:
        directory, name = self.parent(path)
        number = directory if name == "." else self.trees[directory].get(name)
        if (number, label) not in self.labels:
            raise Refusal("ENOENT")
        del self.labels[number, label]
        self._remember()

    # --- ends --------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """A clean stop: every draft becomes a version, and all is on the disk."""
        for number in self._drafts_in_order():
            self._commit(number)
        self.fall_back(len(self.moments) - 1)
        self.synced = len(self.moments) - 1

    def fall_back(self, moment: int) -> None:
        """The process died, or the machine did: all is as it was committed at a moment, and no handle is left."""
        then = self.moments[moment]
        del self.moments[moment + 1 :]
        self.handles.clear()
        self.labels = dict(then.labels)
        self.trees = {n: dict(tree) for n, tree in then.trees.items()}
        self.causes = dict(then.causes)
        for key, history in self.histories.items():
            self.histories[key] = [version for version in history if version.when <= moment]
        bound = {i for tree in self.trees.values() for i in tree.values()}
        for number, inode in self.inodes.items():
            inode.commits = [when for when in inode.commits if when <= moment]
            inode.handles, inode.draft = 0, None
            if number in bound or number == ROOT:
                look = then.looks[number]
                inode.mode, inode.xattrs = look.mode, dict(look.xattrs)
                inode.data = inode.saved_data = look.data
                inode.mtime = inode.saved_mtime = look.mtime
        self.synced = min(self.synced, moment)
