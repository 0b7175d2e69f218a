"""`cascadefs bisect PATH COMMAND ...`: the first version of a file, or state of a directory, for which a command fails."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Annotated

import typer

from cascadefs.cli.history.absence import explaining
from cascadefs.cli.history.commands.options import AsJson, report
from cascadefs.cli.history.halving import Halving
from cascadefs.cli.history.logged import LoggedInstant, read_log
from cascadefs.cli.history.moment import attribute
from cascadefs.cli.history.place import Place, locate
from cascadefs.cli.history.refusal import Refusal, printable, refusing
from cascadefs.vpath import Time, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bisect"]

_TROUBLE = 2

_SKIP = 125
"""Exit status of a command that cannot judge, as `git bisect run` has it; from 128 on something ended the command."""


@refusing(status=_TROUBLE)
def bisect(
    path: Annotated[str, typer.Argument(metavar="PATH")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND ...")],
    good: Annotated[
        str | None,
        typer.Option("--good", metavar="PATH@SPEC", help="Known to be good; default: the oldest."),
    ] = None,
    bad: Annotated[
        str | None,
        typer.Option("--bad", metavar="PATH@SPEC", help="Known to be bad; default: the newest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the first version of PATH that is bad: for which COMMAND ends with another status than 0.

    COMMAND gets the path of a version where it says {}, or else as its last argument. Status 125 skips a version, 128
    and above end the search. Of a directory the last 1,000 states are looked at. Options stand before PATH.

    Example: cascadefs bisect train.py python {} --quick
    """
    if command[0] == "--" and len(command) > 1:
        command = command[1:]  # Between a command and another's arguments people put it by habit.
    place = locate(os.fsencode(path))
    if place.spec is not None or place.rest:
        raise Refusal(place.path, "a history is searched as a whole", "use --good and --bad")
    with explaining(place):
        states = _states(place)
        first = 0 if good is None else _index(states, place, good, "--good")
        last = len(states) - 1 if bad is None else _index(states, place, bad, "--bad")
    if last < first:
        raise Refusal(place.live, "what is bad is older than what is good", "swap the two")
    found = _search(states, first, last, command)
    out = report(as_json=as_json)
    good_path, bad_path = states[found.good].path, states[found.bad].path
    if as_json:
        document = {
            "first_bad": bad_path,
            "last_good": good_path,
            "skipped": [states[index].path for index in found.between],
            "runs": found.runs,
        }
        out.lines([out.encoded(document)])
        return
    if found.between:
        count = len(found.between)
        typer.echo(
            f"cascadefs: {count} between them could not be judged; it may be one of those", err=True
        )
    out.lines([b"first bad: " + bad_path, b"last good: " + good_path])


class _States:
    """The states of a name that can be opened, oldest first: found as they are asked for where there may be many."""

    def __init__(self, place: Place, instants: Sequence[int] | None, head: int) -> None:
        self._place = place
        self.instants = instants
        self._head = head

    def __len__(self) -> int:
        return self._head if self.instants is None else len(self.instants)

    def __getitem__(self, index: int) -> Place:
        if self.instants is None:
            return self._place.version(index + 1)
        return self._place.at(self.instants[index])

    def is_there(self, index: int) -> bool:
        """Whether it can be opened: a removal cannot, nor what is pruned."""
        return os.path.lexists(self[index].path)


def _states(place: Place) -> _States:
    if os.path.isdir(place.live) and not os.path.islink(place.live):
        lines = read_log(place.log)
        instants = [line.timestamp for line in lines if isinstance(line, LoggedInstant)]
        return _States(place, instants[::-1], 0)
    head = attribute(place.live, "head")
    if head is None:
        raise FileNotFoundError(2, os.strerror(2), place.live)
    return _States(place, None, int(head))


def _index(states: _States, place: Place, spelled: str, option: str) -> int:
    """Which of the states a path of the same name is."""
    given = locate(os.fsencode(spelled))
    if (given.directory, given.name, given.rest) != (place.directory, place.name, place.rest):
        raise Refusal(given.path, f"{option} is about another name than {printable(place.live)}")
    if states.instants is not None:
        if not isinstance(given.spec, Time):
            raise Refusal(
                given.path, f"{option} takes a time of a directory", "see `cascadefs log`"
            )
        timestamp = given.spec.timestamp
        known = [at for at, instant in enumerate(states.instants) if instant <= timestamp]
        if not known:
            raise Refusal(given.path, "its log does not reach back so far")
        return known[-1]
    if isinstance(given.spec, Version):
        return given.spec.number - 1
    number = None if given.spec is None else attribute(given.path, "version")
    if number is None:
        raise Refusal(given.path, f"{option} takes a version", "name one, as in PATH@v3")
    return int(number) - 1


def _search(states: _States, first: int, last: int, command: list[str]) -> Halving:
    """Ask the command, both ends first: what is known wrongly would be found to be somewhere else."""
    while first < last and not states.is_there(first):
        first += 1
    while last > first and not states.is_there(last):
        last -= 1
    if first == last:
        raise Refusal(states[last].path, "there is only this one", "nothing can have changed")
    if _is_good(states[last], command) is not False:
        raise Refusal(states[last].path, "it is not bad", "say --bad, or another command")
    if _is_good(states[first], command) is not True:
        raise Refusal(states[first].path, "it is not good", "say --good, or another command")
    halving = Halving(first, last)
    while (index := halving.next) is not None:
        verdict = _is_good(states[index], command) if states.is_there(index) else None
        halving.judge(index, verdict)
    return halving


def _is_good(state: Place, command: list[str]) -> bool | None:
    """What the command says of a state; None if it cannot judge."""
    path = os.fsdecode(state.path)
    arguments = [argument.replace("{}", path) for argument in command]
    if not any("{}" in argument for argument in command):
        arguments.append(path)
    typer.echo(f"cascadefs: trying {printable(path)}", err=True)
    try:
        done = subprocess.run(arguments, env={**os.environ, "CASCADE_PATH": path}, check=False)
    except OSError as error:
        raise Refusal(arguments[0], f"it cannot be run: {error.strerror}") from error
    if done.returncode < 0 or done.returncode >= 128:
        raise Refusal(arguments[0], f"it ended with {done.returncode} on {printable(path)}")
    return None if done.returncode == _SKIP else done.returncode == 0
