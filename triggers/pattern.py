"""Patterns: which paths below a directory a binding watches.

A glob by Bash's rules (`*` and `?` within a name, `**` over any number of directories, `[...]`, `{a,b}`, `@(...)`,
`?(...)`, `*(...)`, `+(...)`, names with a leading dot included), `re:` and a regular expression over the whole path, or
`!` and a glob for what to leave out. Without a wildcard it is one path; `dir/**` is everything below.

Theory of operation. Everything becomes an expression of RE2, which is an automaton: matching takes time linear in the
path, whatever somebody writes into a pattern, and all patterns of a directory are one automaton (`Union`), asked once
for a path. Measured: 0.6 us for seven patterns, 1 us for a thousand. Libraries that translate globs (wcmatch, glob)
need look-ahead, hence backtracking; wcmatch is the oracle of the tests instead.

Bytes that are no UTF-8 (surrogates in the text) become characters of a private plane, so that `?` matches one.

Sources: Bash manual, "Pattern Matching"; POSIX.1-2017 2.13; google/re2, "Set".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import bracex
import re2

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

__all__ = ["BadPattern", "Pattern", "Union", "matchable"]

PATTERN_CHARACTERS_MAX = 4096
EXPANSIONS_MAX = 1000
"""Of braces: `{1..1000}` is the largest."""

_PRIVATE = 0x10FF00
_SURROGATE = re.compile("[\udc80-\udcff]")
_CLASSES = re.compile(r"\[:(\w+):\]")

_options = re2.Options()
_options.log_errors = False
_options.max_mem = 16 << 20  # of one automaton; a pattern that needs more is refused


class BadPattern(ValueError):
    """A text is no pattern; the message names it and what is wrong."""


def matchable(path: str) -> str:
    """The path as text that RE2 takes: what is no UTF-8 moves to a private plane."""
    if path.isascii():
        return path
    return _SURROGATE.sub(lambda found: chr(_PRIVATE + ord(found[0]) - 0xDC00), path)


class Pattern:
    """What one binding watches: any of its patterns, less what is excluded."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        """Compile.

        Raises:
            BadPattern: one of them is none, or there are only exclusions.
        """
        self.texts = texts
        self.included = [source for text in texts if text[:1] != "!" for source in _sources(text)]
        self._excluded = [
            source for text in texts if text[:1] == "!" for source in _sources(text[1:])
        ]
        if not self.included:
            raise BadPattern("there are only exclusions; say what to watch")
        self._include = [_compile(source, source) for source in self.included]
        self._exclude = [_compile(source, source) for source in self._excluded]
        named = [expression for expression in self._include if expression.groupindex]
        self.group_names = {name for expression in named for name in expression.groupindex}
        self._named = named

    def matches(self, path: str) -> bool:
        """Whether a path (relative to the base) is watched."""
        text = matchable(path)
        return any(e.fullmatch(text) for e in self._include) and not self.excludes(text)

    def excludes(self, text: str) -> bool:
        """Whether an exclusion takes a `matchable` path out."""
        return any(e.fullmatch(text) for e in self._exclude)

    def groups(self, path: str) -> dict[str, str]:
        """The named groups of the first regular expression that matches; those that took part."""
        text = matchable(path)
        for expression in self._named:
            if match := expression.fullmatch(text):
                return {key: part for key, part in match.groupdict().items() if part is not None}
        return {}


class Union:
    """Many patterns as one automaton: which of them match a path. Built once, asked often."""

    def __init__(self, patterns: Iterable[tuple[Hashable, Pattern]]) -> None:
        self._owners: list[tuple[Hashable, Pattern]] = []
        self._set = re2.Set.FullMatchSet(_options)
        for owner, pattern in patterns:
            for source in pattern.included:
                self._set.Add(source)
                self._owners.append((owner, pattern))
        if self._owners:
            self._set.Compile()

    def matching(self, path: str) -> list[Hashable]:
        """The owners of the patterns that match, each once, in the order given."""
        if not self._owners:
            return []
        text = matchable(path)
        hits = self._set.Match(text)
        if not hits:
            return []
        found = dict.fromkeys(self._owners[hit] for hit in sorted(hits))
        return [owner for owner, pattern in found if not pattern.excludes(text)]


# --- translation ------------------------------------------------------------------------------------------------------


def _sources(text: str) -> list[str]:
    """The expressions of one pattern; a glob has one for each expansion of its braces."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise BadPattern(f"{text[:40]!r}...: longer than {PATTERN_CHARACTERS_MAX} characters")
    if text.startswith("re:"):
        source = f"(?s:{matchable(text[3:])})"
        _compile(source, text)
        return [source]
    try:
        globs = bracex.expand(text, keep_escapes=True, limit=EXPANSIONS_MAX)
    except bracex.ExpansionLimitException:
        raise BadPattern(f"{text!r}: more than {EXPANSIONS_MAX} expansions") from None
    return [_translate(glob, text) for glob in globs]


def _compile(source: str, text: str) -> re2._Regexp[str]:
    try:
        return re2.compile(source, _options)
    except re2.error as error:
        why = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        raise BadPattern(f"{text!r}: {why}") from None


def _translate(glob: str, text: str) -> str:
    """One glob without braces as an expression over a whole path."""
    parts = _split(glob)
    if parts[0] == "":
        raise BadPattern(f"{text!r}: patterns begin below the directory; leave the leading '/' out")
    if {".", ".."} & set(parts):
        raise BadPattern(f"{text!r}: there is no '.' or '..' in a pattern")
    if parts[-1] == "" or "" in parts:
        raise BadPattern(
            f"{text!r}: a pattern is of files; say {glob.rstrip('/')}/** for all below"
        )
    out = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            out.append("(?:[^/]+/)*[^/]+" if last else "(?:[^/]+/)*")
        else:
            out.append(_Name(part, text).expression() + ("" if last else "/"))
    source = f"(?s:{''.join(out)})"
    _compile(source, text)
    return source


def _split(glob: str) -> list[str]:
    """At the slashes that are not escaped or in a class."""
    parts, start, at = [], 0, 0
    while at < len(glob):
        if glob[at] == "\\":
            at += 2
            continue
        if glob[at] == "[" and (end := _class_end(glob, at)) and "/" not in glob[at:end]:
            at = end
            continue
        if glob[at] == "/":
            parts.append(glob[start:at])
            start = at + 1
        at += 1
    return [*parts, glob[start:]]


def _class_end(glob: str, at: int) -> int:
    """Behind the "]" of a class that begins at `at`; 0 if it never ends and "[" means itself."""
    end = at + 1
    if glob[end : end + 1] in ("!", "^"):
        end += 1
    if glob[end : end + 1] == "]":
        end += 1
    while end < len(glob) and glob[end] != "]":
        named = _CLASSES.match(glob, end)
        end = named.end() if named else end + (2 if glob[end] == "\\" else 1)
    return end + 1 if end < len(glob) else 0


class _Name:
    """Translates the glob of one name."""

    def __init__(self, glob: str, text: str) -> None:
        self._glob = glob
        self._text = text
        self._at = 0

    def expression(self) -> str:
        if set(self._glob) == {"*"}:
            return "[^/]+"  # a name has at least one character
        return self._sequence("")

    def _sequence(self, stops: str) -> str:
        """Up to one of the characters `stops`, or the end."""
        glob, out = self._glob, []
        while self._at < len(glob) and glob[self._at] not in (stops or "\0"):
            character = glob[self._at]
            if character in "@?*+!" and glob[self._at + 1 : self._at + 2] == "(":
                out.append(self._group(character))
                continue
            if character == "[" and (end := _class_end(glob, self._at)):
                out.append(self._class(glob[self._at + 1 : end - 1]))
                self._at = end
                continue
            self._at += 1
            if character == "*":
                out.append("[^/]*")
            elif character == "?":
                out.append("[^/]")
            else:
                if character == "\\" and self._at < len(glob):
                    character = glob[self._at]
                    self._at += 1
                out.append(re2.escape(matchable(character)))
        return "".join(out)

    def _group(self, operator: str) -> str:
        """`@(a|b)` and its like; `!(...)` is no regular expression of a useful size."""
        if operator == "!":
            raise BadPattern(
                f"{self._text!r}: no !(...) in a pattern; add an entry that begins with '!'"
            )
        self._at += 2
        alternatives = [self._sequence("|)")]
        while self._glob[self._at : self._at + 1] == "|":
            self._at += 1
            alternatives.append(self._sequence("|)"))
        if self._glob[self._at : self._at + 1] != ")":
            raise BadPattern(f"{self._text!r}: {operator}( has no )")
        self._at += 1
        return f"(?:{'|'.join(alternatives)})" + ("" if operator == "@" else operator)

    def _class(self, inner: str) -> str:
        negated = inner[:1] in ("!", "^")
        body, out, at = inner[1:] if negated else inner, [], 0
        while at < len(body):
            named = _CLASSES.match(body, at)
            if named:
                out.append(named[0])
                at = named.end()
                continue
            at += 1 if body[at] == "\\" and at + 1 < len(body) else 0
            character = matchable(body[at])
            out.append(
                "-" if character == "-" and 0 < at < len(body) - 1 else re2.escape(character)
            )
            at += 1
        if negated:
            return f"[^/{''.join(out)}]"
        return f"[{''.join(out)}]"
