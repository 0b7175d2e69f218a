"""What the model has found, as it printed it, made smallest: each was a divergence once."""

from __future__ import annotations

import pytest

from tests.model.reference import Spec
from tests.model.test_layer import LayerMachine


@pytest.fixture
def w():
    """A tree and its reference, small limits and all; at the end everything is compared."""
    with LayerMachine.make_pair() as pair:
        yield pair
        pair.finish()


def test_a_name_made_again_has_no_version_before_its_first_commit(w):
    """`user.cascade.version` gave the number of the tombstone, and `canonical` a name that leads nowhere."""
    w.open(1, "a", "w creat trunc")
    w.write(1, 0, 1)
    w.close(1)
    w.unlink("a")
    w.open(2, "a", "rw creat")


def test_a_name_just_made_has_no_head(w):
    """`user.cascade.head` was 0, which is no version; SEMANTICS 10 says ENODATA."""
    w.open(1, "a", "rw creat")
    with pytest.raises(OSError, match="no such extended attribute"):
        w.door.getxattr("a", "user.cascade.head")


def test_a_directory_moved_away_is_as_it_was_last(w):
    """`.@deleted/d` was as it was when it got the name: empty."""
    w.mkdir("a", 0o744)
    w.open(1, "a/b", "w creat")
    w.close(1)
    w.setxattr("a", "user.k", b"", "")
    w.rename("a", "b.txt", "")
    assert sorted(w.door.picture(".@deleted/a")) == ["", "b"]


def test_an_empty_file_is_not_the_same_as_the_directory_before_it(w):
    """The log said `same` of a version that follows something that is no file."""
    w.mkdir("d", 0o755)
    w.open(1, "a", "w creat")
    w.close(1)
    w.rename("d", "a", "exchange")


def test_a_file_that_lost_a_name_speaks_of_the_one_it_has(w):
    """`user.cascade.version` was ENODATA, and a restore refused, until the kernel looked the other name up again."""
    w.open(1, "a", "w creat")
    w.close(1)
    w.link("a", "b")
    layer = w.door
    with layer._walk(b"a", follow=False) as stat:
        layer.stat("b")
        w.unlink("b")
        assert layer.fs.getxattr(stat.number, b"user.cascade.version", layer.caller) == b"1"
        layer.fs.setxattr(stat.number, b"user.cascade.restore", b"v1", 0, layer.caller)
    w.reference.restore("a", Spec("v", 1))
    w.check()
