"""A model of a disk that forgets: from a trace of system calls to every state that a power cut could have left.

What a file holds and what a folder lists are changes in order, and nothing but an fsync of that very file or folder
makes a change durable: a synced file whose folder was not synced is gone. Real file systems keep more than that.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.strace import Call

SECTOR = 512
BY_NAME = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
KNOWN = (
    "openat", "creat", "write", "pwrite64", "writev", "ftruncate", "fallocate", "lseek", "fsync", "fdatasync", *BY_NAME,
)  # fmt: skip
"""The calls that the model knows; those of `BY_NAME` name what they change by path."""
UNKNOWN = (
    "open", "truncate", "pwritev", "pwritev2", "link", "linkat", "symlink", "symlinkat", "copy_file_range",
    "sendfile", "splice",
)  # fmt: skip
"""Calls that change a disk as well, and that the model does not know: where one touches the spool, it says so."""
NOT_DURABLE = ("-shm",)
"""Ends of names that are shared memory and no state: SQLite makes the file anew."""


@dataclass(eq=False, slots=True)
class Change:
    """To a file: `data` at `offset`, or its `length`. To a folder: `entries`, a name to what it now is, or None."""

    offset: int = 0
    data: bytes = b""
    length: int | None = None
    entries: dict[str, Node | None] = field(default_factory=dict)
    ended: bool = False
    durable: bool = False


@dataclass(eq=False, slots=True)
class Node:
    """A file or a folder."""

    is_folder: bool
    base: bytes = b""
    listed: dict[str, Node] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def fold(self) -> None:
        """Forget how it came to what is durable."""
        count = next((n for n, change in enumerate(self.changes) if not change.durable), len(self.changes))
        if self.is_folder:
            self.listed = _listed(self, self.changes[:count])
        else:
            self.base = _content(self, self.changes[:count])
        del self.changes[:count]


Pick = Callable[[Node], Iterable[Change]]
"""Which changes of a file or folder had reached the disk when the power went."""


def synced(node: Node) -> Iterable[Change]:
    """The worst that can be: what was synced and nothing else."""
    return (change for change in node.changes if change.durable)


def names(node: Node) -> Iterable[Change]:
    """What folders list as the process saw it, what files hold as it was synced: every removal is durable at once."""
    return node.changes if node.is_folder else synced(node)


def everything(node: Node) -> Iterable[Change]:
    """The best: as if the process alone had died."""
    return node.changes


def some(seed: str) -> Pick:
    """By chance: of what was not synced, a subset in any order, and the last of each file torn between sectors."""
    chance = random.Random(seed)

    def pick(node: Node) -> Iterator[Change]:
        share = chance.choice((0.1, 0.5, 0.9))
        picked = [change for change in node.changes if change.durable or chance.random() < share]
        last = picked[-1] if picked else None
        for change in picked:
            if change is last and change.data and not change.durable:
                yield from _torn(change, chance)
            else:
                yield change

    return pick


def _torn(change: Change, chance: random.Random) -> Iterator[Change]:
    at = 0
    while at < len(change.data):
        count = min(SECTOR - (change.offset + at) % SECTOR, len(change.data) - at)
        if chance.random() < 0.5:
            yield Change(change.offset + at, change.data[at : at + count])
        at += count


def _content(node: Node, changes: Iterable[Change]) -> bytes:
    content = bytearray(node.base)
    for change in changes:
        if change.length is not None:
            del content[change.length :]
            content.extend(bytes(change.length - len(content)))
        else:
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.data)] = change.data
    return bytes(content)


def _listed(node: Node, changes: Iterable[Change]) -> dict[str, Node]:
    entries: dict[str, Node | None] = dict(node.listed)
    for change in changes:
        entries |= change.entries
    return {name: one for name, one in entries.items() if one is not None}


@dataclass(frozen=True, slots=True)
class Event:
    """A call begins or ends."""

    line: int
    ends: bool
    call: Call


def events(calls: Iterable[Call]) -> list[Event]:
    """In the order in which strace saw them."""
    both = itertools.chain.from_iterable((Event(c.began, False, c), Event(c.ended, True, c)) for c in calls)
    return sorted(both, key=lambda event: (event.line, event.ends))


class Disk:
    """What is below `root`. Feed it every event in order; `ignored` says which fsyncs do nothing."""

    def __init__(self, root: Path, ignored: Callable[[str], bool] = lambda _: False) -> None:
        self.root = root
        self.syncs = 0
        self.ignored_syncs = 0
        self._ignored = ignored
        self._tree = Node(is_folder=True)
        self._positions: dict[tuple[Node, int], int] = {}
        self._pending: dict[int, list[tuple[Node, Change]]] = {}

    def feed(self, event: Event) -> None:
        call = event.call
        if not self.concerns(call):
            return
        if call.name in UNKNOWN:
            raise NotImplementedError(f"{call.name} of {call.path}: the model does not know what it does")
        if call.result < 0:
            return
        if not event.ends:
            self._pending[id(call)] = self._begin(call)
            return
        for node, change in self._pending.pop(id(call)):
            change.ended = True
            if call.name in ("fsync", "fdatasync"):
                change.durable = True
                node.fold()

    def materialise(self, folder: Path, pick: Pick) -> None:
        """Write a state that the disk may have, as `folder`, which must not be there yet."""
        _write(self._tree, folder, pick)

    # -- which calls, and which files ------------------------------------------------------------------------------

    def concerns(self, call: Call) -> bool:
        """Whether a call is about anything below the root."""
        names = [call.path]
        if call.name in ("openat", "creat"):
            names = [call.opened]
        elif call.name in BY_NAME:
            names = [os.fsdecode(one) for one in call.strings]
        elif call.name in UNKNOWN:
            names += [os.fsdecode(one) for one in call.strings]
        return any(self._parts(name) is not None for name in names)

    def _parts(self, path: str) -> tuple[str, ...] | None:
        """The names from the root to it; None for what is not below the root, gone, or no state."""
        if not path.startswith("/") or path.endswith((*NOT_DURABLE, " (deleted)")):
            return None
        try:
            return Path(path).relative_to(self.root).parts
        except ValueError:
            return None

    def _find(self, path: str) -> Node | None:
        """What stands at a path, for a process that runs."""
        node: Node | None = self._tree
        for name in self._parts(path) or ():
            node = _listed(node, node.changes).get(name) if node else None
        return node

    def _entry(self, path: str, one: Node | None) -> tuple[Node, Change]:
        """A folder's change, so that `path` names `one`."""
        folder = self._find(os.path.dirname(path))
        assert folder is not None, path
        change = Change(entries={os.path.basename(path): one})
        folder.changes.append(change)
        return folder, change

    # -- what each call does ---------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> list[tuple[Node, Change]]:
        """Enter what a call changes, from its begin on: it may be on disk before the call has ended."""
        match call.name:
            case "openat" | "creat":
                return self._open(call)
            case "mkdir" | "mkdirat":
                return [self._entry(os.fsdecode(call.strings[-1]), Node(is_folder=True))]
            case "unlink" | "unlinkat" | "rmdir":
                return [self._entry(os.fsdecode(call.strings[-1]), None)]
            case "rename" | "renameat" | "renameat2":
                return self._rename(*(os.fsdecode(one) for one in call.strings))
        node = self._find(call.path)
        if node is None:
            return []
        if call.name in ("fsync", "fdatasync"):
            return self._sync(node, call.path)
        if call.name == "lseek":
            self._positions[node, call.descriptor] = call.result
            return []
        return self._write_to(node, call)

    def _open(self, call: Call) -> list[tuple[Node, Change]]:
        made: list[tuple[Node, Change]] = []
        node = self._find(call.opened)
        if node is None and ("O_CREAT" in call.text or call.name == "creat"):
            node = Node(is_folder=False)
            made.append(self._entry(call.opened, node))
        if node is None:
            raise NotImplementedError(f"{call.opened} was opened, and the model has not seen it made")
        if "O_TRUNC" in call.text:
            made.append(_changed(node, Change(length=0)))
        self._positions[node, call.result] = 0
        if "O_APPEND" in call.text:
            self._positions[node, call.result] = len(_content(node, node.changes))
        return made

    def _rename(self, old: str, new: str) -> list[tuple[Node, Change]]:
        if os.path.dirname(old) != os.path.dirname(new):
            raise NotImplementedError("a rename from one folder to another")
        folder, change = self._entry(new, self._find(old))
        change.entries[os.path.basename(old)] = None
        return [(folder, change)]

    def _sync(self, node: Node, path: str) -> list[tuple[Node, Change]]:
        """What is durable once the call returns: changes that had ended when it began."""
        self.syncs += 1
        if self._ignored(path):
            self.ignored_syncs += 1
            return []
        return [(node, change) for change in node.changes if change.ended and not change.durable]

    def _write_to(self, node: Node, call: Call) -> list[tuple[Node, Change]]:
        if call.name == "ftruncate":
            return [_changed(node, Change(length=call.number(-1)))]
        if call.name == "fallocate":  # as `posix_fallocate` calls it: a file only grows
            length = max(len(_content(node, node.changes)), call.number(-2) + call.number(-1))
            return [_changed(node, Change(length=length))]
        data = b"".join(call.strings)[: call.result]
        if call.name == "pwrite64":
            return [_changed(node, Change(call.number(-1), data))]
        offset = self._positions[node, call.descriptor]
        self._positions[node, call.descriptor] = offset + len(data)
        return [_changed(node, Change(offset, data))]


def _changed(node: Node, change: Change) -> tuple[Node, Change]:
    node.changes.append(change)
    return node, change


def _write(node: Node, path: Path, pick: Pick) -> None:
    if not node.is_folder:
        path.write_bytes(_content(node, pick(node)))
        return
    path.mkdir()
    for name, one in _listed(node, pick(node)).items():
        _write(one, path / name, pick)
