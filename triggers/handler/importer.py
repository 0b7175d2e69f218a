"""A script and its `lib/`, imported from memory.

Several versions of a script, and several scripts with a `lib/` each, may live in one process (inproc), so their modules
have private names: `_cascade_<id>.identify`, `_cascade_<id>.lib.features`. A script still writes `from lib import
features`: its built-in `__import__` is one that knows the way. Nothing is ever reloaded (docs/TRIGGERS.md 10).

Tracebacks show source lines, since the modules' loader answers `get_source`. Data files in `lib/` are read by
`pkgutil.get_data(__name__, ...)` or `__loader__.get_data("lib/table.csv")`; compiled extensions cannot be loaded.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from triggers.handler.collector import Collector, collecting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from triggers.run import Script

__all__ = ["PREFIX", "ScriptImporter"]

PREFIX = "_cascade_"
"""Of the private names of scripts' modules."""

_numbers = itertools.count(1)
"""Two importers of one script, of two runners in a process, share nothing."""


class ScriptImporter(MetaPathFinder, Loader):
    """Finder and loader (PEP 451) of one version of one script; one per script and process."""

    def __init__(self, script: Script, replaced: Mapping[str, Any] | None = None) -> None:
        """Make the script importable; `replaced` are built-ins that its modules get in place of Python's."""
        self.prefix = f"{PREFIX}{script.id}_{next(_numbers)}"
        # A dot in the name of the script itself separates no packages.
        self._main = f"{self.prefix}.{script.name.removesuffix('.py').replace('.', '_')}"
        base = f"{script.base_path}/" if script.base_path else ""
        self._script = script
        self._builtins = {**vars(builtins), **(replaced or {}), "__import__": self._import}
        self._paths = {self.prefix: ""} | {
            f"{self.prefix}.{module_name(path)}": path
            for path in script.files
            if path.endswith(".py") and path != script.name
        }
        self._paths[self._main] = script.name
        for name in list(self._paths):  # directories without __init__.py are packages too
            while (name := name.rpartition(".")[0]) and name not in self._paths:
                self._paths[name] = ""
        self._shown = {path: f"{base}.cascade/watch/{path}" for path in script.files}

    def collect(self) -> Collector:
        """Import the module and run its `initialize`: what it registers.

        Raises whatever the module raises; then nothing of it stays.
        """
        sys.meta_path.insert(0, self)
        try:
            with collecting() as collector:
                module = importlib.import_module(self._main)
                collector.initialize(module)
        except BaseException:
            self.forget()
            raise
        return collector

    def forget(self) -> None:
        """Make the script's modules unreachable; functions that still run keep what they use."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in [name for name in sys.modules if name in self._paths]:
            del sys.modules[name]

    # --- as the import system calls it --------------------------------------------------------------------------------

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module of this script; None of any other."""
        file = self._paths.get(name)
        if file is None:
            return None
        is_package = not file or file.endswith("/__init__.py")
        spec = ModuleSpec(name, self, origin=self._shown.get(file), is_package=is_package)
        if file:
            spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave the making of the module to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code with the script's own built-ins."""
        file = self._paths[module.__name__]
        module.__dict__["__builtins__"] = self._builtins
        if file:
            code = compile(self._script.files[file], self._shown[file], "exec", dont_inherit=True)
            exec(code, module.__dict__)

    def get_source(self, name: str) -> str | None:
        """A module's text, for tracebacks."""
        file = self._paths.get(name)
        return self._script.files[file].decode(errors="replace") if file else None

    def get_data(self, path: str) -> bytes:
        """A file of the script, by its path below `watch/`.

        Raises:
            OSError: there is none.
        """
        try:
            return self._script.files[path]
        except KeyError:
            raise OSError(f"{path}: no such file in .cascade/watch/") from None

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """`__import__` as the script's modules see it: `lib` is theirs, all else is everybody's."""
        if level == 0 and name.partition(".")[0] == "lib" and f"{self.prefix}.lib" in self._paths:
            found = builtins.__import__(f"{self.prefix}.{name}", globals, locals, fromlist, 0)
            return found if fromlist else sys.modules[f"{self.prefix}.lib"]
        return builtins.__import__(name, globals, locals, fromlist or (), level)


def module_name(path: str) -> str:
    """ "lib/features.py" is "lib.features"; "lib/__init__.py" is "lib"."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
