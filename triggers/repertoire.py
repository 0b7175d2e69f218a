"""The repertoire: the versions of scripts that runs are made of, read from history once, and let go when nobody needs them.

Source: docs/TRIGGERS.md 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from triggers.change import path_of

if TYPE_CHECKING:
    from storage.store import Store
    from triggers.follower import Definition, Follower
    from triggers.library import Library
    from triggers.options import Options
    from triggers.registry import Registry
    from triggers.run import Script

__all__ = ["Repertoire"]

UNUSED_EVENTS_MAX = 1000
"""Pending of a binding up to which they are looked through for scripts that nobody needs any more."""


class Repertoire:
    """Of one engine. Whoever calls holds the store."""

    def __init__(
        self, store: Store, registry: Registry, library: Library, options: Options
    ) -> None:
        self._store = store
        self._registry = registry
        self._library = library
        self._options = options
        self.scripts: dict[tuple[int, str], Script] = {}
        """By base and version: those that ran and may run again."""
        self._reloaded = False
        self._until_look = 0
        """Events to come back before `take_unused` looks through what is pending again."""

    def script(self, follower: Follower, definition: Definition) -> Script:
        """The script of one version of a binding, as it was when that version became active.

        Raises:
            LoadFailed: history does not have it any more, or nobody may run as its owner now.
        """
        key = (follower.base, definition.script_id)
        script = self.scripts.get(key)
        if script is None:
            path = path_of(self._store, follower.base, definition.timestamp)
            name, timestamp = definition.script, definition.timestamp
            found = self._library.find(follower.base, path, name, timestamp)
            groups = self._options.groups_of(found.script.uid, found.script.gid)
            script = msgspec.structs.replace(found.script, groups=groups)
            self.scripts[key] = script
        return script

    def came_back(self, events: int) -> None:
        """So many events are no longer pending, or were tried."""
        self._until_look -= events

    def reloaded(self) -> None:
        """There are new versions: old ones may be needed no more."""
        self._reloaded = True
        self._until_look = 0

    def take_unused(self) -> list[str]:
        """The versions of scripts that ran and will not run again, each told once; for `Runner.retire`."""
        if not self._reloaded or self._until_look > 0:
            return []
        followers = list(self._registry.followers())
        most = max((len(follower.queue) for follower in followers), default=0)
        if most > UNUSED_EVENTS_MAX:
            self._until_look = most - UNUSED_EVENTS_MAX
            return []
        used = {
            definition.script_id
            for follower in followers
            for definition in (
                follower.newest if follower.active else None,
                *(follower.definition_of(one.definition) for one in follower.queue.events()),
            )
            if definition is not None
        }
        unused = [key for key in self.scripts if key[1] not in used]
        self._until_look = sum(len(follower.queue) for follower in followers)
        self._reloaded = self._until_look > 0
        for key in unused:
            del self.scripts[key]
        return [script_id for _, script_id in unused]
