"""What the grammar knows and this version does not do is refused, not pretended."""

from __future__ import annotations


def test_directories_but_the_root_have_no_control_directory(tree):
    tree.mkdir("d")
    assert tree.errno("stat", "d/.cascade") == "ENOENT"
    assert tree.errno("mkdir", "d/.cascade") == "EPERM"
