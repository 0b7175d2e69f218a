"""Goal: programs find on a mount what POSIX and Linux promise. Method: the same calls on ext4 and on a mount, compared.

Every case of tests/posix/areas runs on a directory of ext4 and on one mount per door; all it saw must be equal, but for
what tests/posix/deviations.py lists with a reason. What is listed must differ, just so: a deviation that is gone must
leave the list. At the end of a run stands what was compared, per area and door. CASCADEFS_POSIX_ENTRIES=200000 makes the
large directory larger.
"""

from __future__ import annotations

import pytest

from tests.posix import figures
from tests.posix.case import CASE_SECONDS, cases
from tests.posix.conftest import DOORS
from tests.posix.deviations import DEVIATIONS

pytestmark = [pytest.mark.mounted, pytest.mark.timeout(CASE_SECONDS + 30, method="thread")]

CASES = cases()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_on_ext4(trees, case, door):
    theirs, ours = trees.expected(case), trees.observed(case, door)
    assert list(ours) == list(theirs), "a case makes the same calls everywhere"
    listed = [d for d in DEVIATIONS if door in d.doors and d.is_about(case)]
    wrong = []
    for key, expected in theirs.items():
        deviations = [d for d in listed if d.covers(key)]
        assert len(deviations) <= 1, f"{key!r} is listed more than once"
        figures.count(case.area, door, is_same=ours[key] == expected)
        if not deviations:
            if ours[key] != expected:
                wrong.append(f"{key}: {ours[key]!r}, on ext4 {expected!r}")
        elif ours[key] == expected:
            wrong.append(f"{key}: no longer deviates: {expected!r}; take it off the list")
        elif not deviations[0].allows(ours[key]):
            wrong.append(f"{key}: {ours[key]!r} is not the deviation listed; ext4 {expected!r}")
    for deviation in listed:
        if not any(deviation.covers(key) for key in theirs):
            wrong.append(f"{deviation} is about nothing that was seen")
    assert not wrong, f"{len(wrong)} of {len(theirs)}:\n" + "\n".join(wrong)


def test_every_deviation_is_about_a_case():
    for deviation in DEVIATIONS:
        assert any(deviation.is_about(case) for case in CASES), deviation
