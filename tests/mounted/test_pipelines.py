"""Each pipeline of docs/examples is one command that comes to what it has to, whatever is killed on the way, and draws it.

Method: run the commands as a newcomer would, one after the other on one mount, and look at what they left there. They compare
with the truth themselves; here it is asked again where a figure could be right by accident. Some are smaller than by default.
Nothing is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mounted.conftest import cascadefs, environment, mounts_below

pytestmark = [pytest.mark.mounted, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
MODE = "root" if os.getuid() == 0 else "owner"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A mount for all of them; each has a directory of its own."""
    with mounts_below(tmp_path_factory.mktemp("pipelines")) as make:
        yield make("--triggers", MODE).path


def play(stage: Path, example: str, *options: str) -> dict[str, float]:
    """Run an example to its end; the figures it came to."""
    picture = stage.parent / f"{example}.png"
    command = [sys.executable, EXAMPLES / example, stage, "--picture", picture, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    return json.loads((stage / example / "report.json").read_bytes())


def versions(path: Path) -> int:
    return int(os.getxattr(path, "user.cascade.version"))


def test_where_no_scripts_run_an_example_says_so_and_leaves_nothing(tmp_path):
    for where, said in ((tmp_path, "no scripts run there"), (tmp_path / "none", "No such file")):
        command = [sys.executable, EXAMPLES / "skater", where]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_dairy_knows_its_cows_through_a_new_model_and_killed_workers(stage):
    figures = play(stage, "dairy", "--frames", "150")
    assert figures["of them identified as the right one"] >= 0.97
    assert figures["mastitis: sensitivity"] >= 0.97
    assert figures["mastitis: specificity"] >= 0.97
    assert figures["cows whose two handlers saw different cuts"] == 0
    assert figures["records not of the model at their cut"] == 0
    assert 0 < figures["records of the second model"] < figures["frames with a cow"]
    health = list((stage / "dairy/health").iterdir())
    assert sum(map(versions, health)) == figures["frames with a cow"] > 100
    status = json.loads((stage / "dairy/.cascade/status.json").read_bytes())
    assert not any(one["failed"] for one in status["bases"][0]["bindings"])


def test_the_intersection_warns_before_two_meet_without_ghosts_and_gaps(stage):
    figures = play(stage, "intersection", "--crossings", "8")
    assert figures["precision of the warnings"] >= 0.85
    assert figures["recall of the warnings"] >= 0.85
    assert figures["pairs that come too close"] >= 15
    assert figures["warnings that come too late"] == 0
    assert figures["forecasts with a ghost"] == 0
    assert figures["trajectories with a gap"] == 0
    for crossing in range(8):
        assert versions(stage / f"intersection/forecasts/{crossing:02}.json") == 40


def test_the_skaters_hands_are_found_and_the_wobble_is_seen(stage):
    figures = play(stage, "skater")
    assert figures["versions of the film"] == versions(stage / "skater/ice/frame.npy") == 100
    assert figures["farthest from the truth, in pixels"] <= 1
    assert figures["frames at which an error was injected"] > 0
    assert figures["errors not found, or found where none is"] == 0


def test_the_sweep_finds_the_rate_and_its_models_are_the_sum_of_what_was_acknowledged(stage):
    figures = play(stage, "sweep")
    assert figures["best of the sweep by scikit-learn's"] <= 1.05
    assert figures["best of the sweep by the base"] <= 0.85
    assert figures["rates apart, in powers of ten"] < 1
    assert figures["rounds run again as a worker was killed"] >= 2
    assert figures["models that are not the sum of what was pushed"] == 0
    (stopped,) = (stage / "sweep/sweep").glob("*/stopped")
    assert stopped.parent.name == "6"  # of the rate that is too high
    assert versions(stopped.with_name("loss")) < versions(stage / "sweep/sweep/1/loss")
    top = cascadefs("top", "--once", "--sweep", stage / "sweep/sweep").stdout
    lines = [line.split() for line in top.partition("curve")[2].splitlines() if line.strip()]
    assert lines[0][:2] == [json.loads((stage / "sweep/best.json").read_bytes())["line"], "best"]
    assert lines[-1][:2] == ["6", "stopped"]
