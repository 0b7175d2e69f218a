"""The command: options, the run, and what is left of it: a table, JSON, a picture, the document's table."""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from benchmarks import (
    chart,
    cluster,
    doors,
    examples,
    machine,
    pipeline,
    table,
    transports,
    triggers,
)
from benchmarks.bench import FULL, QUICK, Bench, prepare_work
from benchmarks.client import Client
from benchmarks.experiments import EXPERIMENTS, chosen
from benchmarks.peers import Cascade, remove
from benchmarks.result import Figure

__all__ = ["main"]

WIDTH = 140
"""Columns where there is no terminal."""

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/PERFORMANCE.md"
PICTURE = ROOT / "docs/performance.png"
BEGIN, END = "<!-- table: scripts/bench -->\n", "<!-- end of table -->\n"
DOORS_DOCUMENT = ROOT / "docs/KERNEL_DOOR.md"
TRIGGERS_BEGIN = "<!-- table: scripts/bench --triggers -->\n"
DOORS_BEGIN = "<!-- table: scripts/bench --doors -->\n"
CLUSTER_BEGIN = "<!-- table: scripts/bench --cluster -->\n"
EXAMPLES_DOCUMENT = ROOT / "docs/ML.md"
EXAMPLES_BEGIN = "<!-- table: scripts/bench --examples -->\n"
TRANSPORTS_BEGIN = "<!-- table: scripts/bench --transports -->\n"


def main(arguments: list[str]) -> int:
    """Run; the exit status says whether everything could be measured, never how fast it was."""
    options = _parsed(arguments)
    signal.signal(signal.SIGINT, _interrupt)  # a shell starts background jobs with it ignored
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    if options.doors:
        return _measure_doors(options)
    if options.triggers:
        return _measure_triggers(options)
    if options.examples:
        return _measure_examples(options)
    if options.transports:
        return _measure_transports(options)
    if options.cluster:
        return _measure_cluster(options)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if options.redraw:
        run = json.loads(options.redraw[0].read_text())
        for path in options.redraw[1:]:
            run = _merged(run, json.loads(path.read_text()))
        trouble: list[str] = []
    else:
        run, trouble = _measured(options)
    figures = [Figure.from_json(row) for row in run["figures"]]
    if options.json is not None and options.redraw:
        options.json.write_text(json.dumps(run, indent=2) + "\n")
    console.print(table.terminal(figures))
    console.print(
        f"\n[dim]{_caption(run)}. In brackets: CPU of the daemon, us an operation (or MiB).[/dim]"
    )
    if options.document:
        _fill_in(DOCUMENT, table.markdown(figures))
    picture = options.png or (PICTURE if options.document else None)
    if picture is not None:
        chart.draw(figures, _caption(run), picture)
    for sentence in trouble:
        print(f"bench: {sentence}", file=sys.stderr)
    return 1 if trouble else 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure cascadefs beside bindfs and the plain disk, and the store alone.",
        epilog=f"rows: {', '.join(EXPERIMENTS)}; or ROW.PART, such as 'sequential.read-*'",
    )
    add = parser.add_argument
    add("--doors", action="store_true", help="the two doors beside C, request by request")
    add("--triggers", action="store_true", help="from a put to a handler, beside others' watches")
    add("--examples", action="store_true", help="the pipelines of docs/examples")
    add("--transports", action="store_true", help="messages between processes, each transport")
    add("--cluster", action="store_true", help="puts and gets of a cluster, beside etcd and Redis")
    add("--quick", action="store_true", help="small sizes and two rounds: about a minute")
    add("--rows", metavar="GLOB", action="append", default=[], help="only these; may be repeated")
    add("--rounds", metavar="N", type=int, help="interleaved rounds (5; quick 2)")
    add("--json", metavar="FILE", type=Path, help="everything measured, every sample")
    add("--png", metavar="FILE", type=Path, help="the picture")
    add("--document", action="store_true", help="put table and picture into docs/")
    add(
        "--redraw",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="show earlier runs, rows of later ones replacing",
    )
    add(
        "--work",
        metavar="DIR",
        type=Path,
        default=Path("/var/tmp"),
        help="on the disk to be measured (/var/tmp)",
    )
    add(
        "--pin",
        metavar="CPU",
        type=int,
        help="clients and daemons on one processor: cost without wake-ups across",
    )
    add("--command", metavar="WORDS", help="how to call cascadefs, to compare another tree")  # fmt: skip
    options = parser.parse_args(arguments)
    if not chosen(options.rows):
        parser.error(f"no row is called {' or '.join(options.rows)}")
    if options.command:
        Cascade.command = options.command.split()
    return options


def _measured(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The run as JSON, and what went wrong: an experiment that fails does not keep the others from running.

    The JSON file is written after every experiment: a run that is interrupted leaves what it had.
    """
    work = prepare_work(options.work)
    trouble: list[str] = []
    begin = time.perf_counter()
    try:
        bench = Bench(
            work,
            Client.build(work, options.pin),
            QUICK if options.quick else FULL,
            options.rounds or (2 if options.quick else 5),
            options.pin,
            lambda sentence: print(f"bench: {sentence}", file=sys.stderr, flush=True),
        )
        run: dict[str, Any] = {
            "machine": machine.describe(work),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "quick": options.quick,
            "rounds": bench.rounds,
            "pinned": options.pin is not None,
            "experiments": {},
            "figures": [],
        }
        for name in chosen(options.rows):
            bench.say(f"{time.perf_counter() - begin:5.0f} s  {name}")
            started = time.perf_counter()
            try:
                run["figures"] += [figure.to_json() for figure in EXPERIMENTS[name][0](bench)]
            except Exception as error:
                trouble.append(f"{name}: {type(error).__name__}: {error}")
                bench.say(trouble[-1])
            run["experiments"][name] = {
                "seconds": round(time.perf_counter() - started, 1),
                "load": round(os.getloadavg()[0], 1),
            }
            if options.json is not None:
                options.json.write_text(json.dumps(run, indent=2) + "\n")
    finally:
        remove(work)
    return run, trouble


def _merged(run: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """An earlier run with the rows of a later one in the place of its own."""
    rows = {row["key"]: row for row in run["figures"]}
    rows.update((row["key"], row) for row in later["figures"])
    experiments = {**run["experiments"], **later["experiments"]}
    order = list(EXPERIMENTS)
    figures = sorted(rows.values(), key=lambda row: order.index(row["key"].partition(".")[0]))
    return {**run, **later, "figures": figures, "experiments": experiments}


def _caption(run: dict[str, Any]) -> str:
    about = run["machine"]
    return (
        f"{about['kind']}, {about['processors']} shared processors, {about['memory_gib']} GiB, "
        f"{about['kernel']}, {about['file_system']}, Python {about['python']}; "
        f"medians of {run['rounds']} interleaved rounds"
        f"{', small sizes' if run['quick'] else ''}{', on one processor' if run['pinned'] else ''}"
    )


def _measure_doors(options: argparse.Namespace) -> int:
    """The table of `doors`: on one processor (`--pin`, else the first), then on all of them."""
    work = prepare_work(options.work)
    pinned = options.pin if options.pin is not None else min(os.sched_getaffinity(0))
    rounds = options.rounds or (2 if options.quick else 5)
    try:
        sizes = QUICK if options.quick else FULL
        bench = Bench(work, Client.build(work, None), sizes, rounds, None, lambda _: None)
        tables = {
            "On one processor": doors.measure(bench, pinned),
            "On all of them": doors.measure(bench, None),
        }
        about = machine.describe(work)
    finally:
        remove(work)
    if options.json is not None:
        rows = {title: [row.to_json() for row in table] for title, table in tables.items()}
        options.json.write_text(json.dumps({"machine": about, **rows}, indent=2) + "\n")
    said = "\n".join(f"{title}:\n\n{doors.markdown(rows)}" for title, rows in tables.items())
    said += (
        f"\n{about['kind']}, {about['processors']} shared processors, {about['kernel']}, "
        f"{about['file_system']}, Python {about['python']}; medians of {rounds} interleaved rounds; "
        f"load {os.getloadavg()[1]:.1f}\n"
    )
    print(said)
    if options.document:
        _fill_in(DOORS_DOCUMENT, said, DOORS_BEGIN)
    return 0


def _measure_triggers(options: argparse.Namespace) -> int:
    """The table of `triggers`."""
    work = prepare_work(options.work)
    rounds = options.rounds or (2 if options.quick else 5)
    puts = 50 if options.quick else 200
    try:
        peers = [triggers.Mounted, *triggers.watchers.ALL]
        say = functools.partial(print, file=sys.stderr)
        rows = triggers.measure(work, peers, rounds, puts, say)
        own = pipeline.measure(work, puts, say)
        about = machine.describe(work)
    finally:
        remove(work)
    if options.json is not None:
        run = {"machine": about, "rows": [row.to_json() for row in rows], "own": own}
        options.json.write_text(json.dumps(run, indent=2) + "\n")
    said = (
        f"{triggers.markdown(rows)}\n\n{pipeline.markdown(own)}\n\n{about['kind']}, {about['processors']} shared processors, "
        f"{about['kernel']}, {about['file_system']}, Python {about['python']}; "
        f"medians of {rounds} rounds of {puts} puts; load {os.getloadavg()[1]:.1f}\n"
    )
    print(said)
    if options.document:
        _fill_in(DOCUMENT, said, TRIGGERS_BEGIN)
    return 0


def _measure_examples(options: argparse.Namespace) -> int:
    """The table of `examples`."""
    work = prepare_work(options.work)
    frames = 50 if options.quick else 200
    try:
        rows = examples.measure(work, frames, functools.partial(print, file=sys.stderr))
        about = machine.describe(work)
    finally:
        remove(work)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
    said = (
        f"{examples.markdown(rows)}\n\n{about['kind']}, {about['processors']} shared processors, {about['kernel']}, "
        f"{about['file_system']}, Python {about['python']}; load {os.getloadavg()[1]:.1f}\n"
    )
    print(said)
    if options.document:
        _fill_in(EXAMPLES_DOCUMENT, said, EXAMPLES_BEGIN)
    return 0


def _measure_cluster(options: argparse.Namespace) -> int:
    """The table of `cluster`."""
    work = prepare_work(options.work)
    puts, concurrent = (50, 64) if options.quick else (300, 64)
    try:
        say = functools.partial(print, file=sys.stderr)
        rows = cluster.measure(work, cluster.peers(), puts=puts, concurrent=concurrent, say=say)
        about = machine.describe(work)
    finally:
        remove(work)
    if options.json is not None:
        run = {"machine": about, "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(run, indent=2) + "\n")
    said = (
        f"{cluster.markdown(rows)}\n\n{about['kind']}, {about['processors']} shared processors, {about['kernel']}, "
        f"{about['file_system']}, Python {about['python']}; all processes on it; {puts} puts one after another, {8 * puts} with "
        f"{concurrent} on their way; load {os.getloadavg()[1]:.1f}\n"
    )
    print(said)
    if options.document:
        _fill_in(DOCUMENT, said, CLUSTER_BEGIN)
    return 0


def _measure_transports(options: argparse.Namespace) -> int:
    """The table of `transports`."""
    work = prepare_work(options.work)
    rounds = options.rounds or (2 if options.quick else 5)
    try:
        figures = transports.measure(work, rounds)
        about = machine.describe(work)
    finally:
        remove(work)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": about, "figures": figures}, indent=2) + "\n")
    said = (
        f"{transports.markdown(figures)}\n\n{about['kind']}, {about['processors']} shared processors, {about['kernel']}, "
        f"Python {about['python']}; medians of {rounds} interleaved rounds; load {os.getloadavg()[1]:.1f}\n"
    )
    print(said)
    if options.document:
        _fill_in(DOCUMENT, said, TRANSPORTS_BEGIN)
    return 0


def _fill_in(document: Path, lines: str, begin: str = BEGIN) -> None:
    text = document.read_text()
    head, found, rest = text.partition(begin)
    tail = rest.partition(END)[2]
    assert found, f"{document} has no place for the table"
    document.write_text(f"{head}{begin}\n{lines}\n{END}{tail}")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
