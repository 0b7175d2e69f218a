"""SEMANTICS 2: which names are history and which are names, on real trees.

Method: what the grammar accepts is tests/cascadefs/test_vpath_*; here is what depends on the tree: a literal entry, a
base with or without history, where in the tree one asks, and when.
"""

from __future__ import annotations

import pytest

from storage.namespace import ROOT

FOREIGN = [
    "icon@2x.png",
    "react@18.2.0",
    "python@3.12",
    "mod@v1.2.3",
    "@types",
    "a@b.com",
    "getty@tty1",
]


def test_both_places_of_the_extension(tree):
    tree.put("x.csv.gz", "one")
    tree.put("x.csv.gz", "two")
    for path in ("x.csv.gz@v1", "x@v1.csv.gz", "x.csv@v1.gz"):
        assert tree.cat(path) == b"one"


def test_steps_back_from_the_head(tree):
    for text in ("one", "two", "three"):
        tree.put("f", text)
    assert [tree.cat(f"f@v-{k}") for k in range(3)] == [b"three", b"two", b"one"]
    assert tree.errno("cat", "f@v-3") == "ENOENT"
    assert tree.errno("cat", f"f@v-{10**19}") == "ENOENT"


def test_v_minus_0_is_the_head_as_committed_not_the_draft(tree):
    tree.put("f", "one")
    file = tree.open("f", 1)
    tree.write(file, b"two")
    assert tree.cat("f@v-0") == b"one"
    tree.close(file)
    assert tree.cat("f@v-0") == b"two"


def test_v_minus_0_of_a_deleted_name_is_its_tombstone(tree):
    tree.put("f", "one")
    tree.unlink("f")
    assert tree.errno("cat", "f@v-0") == "ENOENT"
    assert tree.cat("f@v-1") == b"one"


@pytest.mark.parametrize(
    "spelling",
    [
        "t=2026-11-21T10:00:30",
        "t=2026-11-21_10:00:30",
        "t=2026-11-21T10:00:30Z",
        "t=2026-11-21T11:00:30+01:00",
        "t=20261121T100030",
        "20261121T100030Z",
        "t=20261121100030",
        "t=1795255230",
        "t=1795255230000",
        "t=1795255230000000",
        "t=1795255230000000000",
        "-30s",
        "t=-30s",
        "-0m30s",
    ],
)
def test_every_form_of_a_time_names_the_same_instant(tree, spelling):
    tree.put("f", "one")
    tree.wait(30)
    tree.store.now()
    tree.put("f", "two")
    tree.wait(30)
    assert tree.cat(f"f@{spelling}") == b"one"
    assert tree.cat(f".@{spelling}/f") == b"one"


def test_a_truncated_time_is_the_start_of_its_interval(tree):
    tree.put("f", "one")  # Some microseconds after 10:00:00.
    tree.wait(30)
    tree.put("f", "two")
    tree.wait(3600 * 24 * 365)
    assert tree.errno("cat", "f@t=2026-11-21T10:00") == "ENOENT"
    assert tree.cat("f@t=2026-11-21T10:00:01") == b"one"
    assert tree.cat("f@t=2026-11-21T10:01") == b"two"
    assert tree.errno("cat", "f@t=2026-11-21") == "ENOENT"
    assert tree.errno("cat", "f@t=2026") == "ENOENT"
    assert tree.cat("f@t=2026-12") == b"two"
    assert tree.cat("f@t=2027") == b"two"


def test_a_time_includes_the_commit_at_it(tree):
    tree.put("f", "one")
    tree.put("f", "two")
    first, second = (int(tree.stat(f"f@v{n}").ctime_ns) // 1000 for n in (1, 2))
    assert tree.cat(f"f@t={first}") == b"one"
    assert tree.cat(f"f@t={second - 1}") == b"one"
    assert tree.cat(f"f@t={second}") == b"two"
    assert tree.cat(f"f@t={second}999") == b"two"  # Nanoseconds, rounded down.


def test_now_is_the_committed_present_and_later_commits_do_not_change_it(tree):
    tree.put("f", "one")
    moment = tree.now()
    tree.put("f", "two")  # The clock stands still, and yet this is later.
    assert tree.cat(f"f@{moment}") == b"one"
    assert tree.cat("f@t=now") == b"two"


def test_relative_times_move_with_the_clock_and_are_never_cached(tree):
    tree.put("f", "one")
    tree.wait(60)
    tree.put("f", "two")
    tree.wait(30)
    assert tree.cat("f@-1m") == b"one"
    tree.wait(31)
    assert tree.cat("f@-1m") == b"two"
    assert tree.timeout("f@-1m") == 0
    assert tree.cascade(".@-1m", "resolved_time") == "20261121T100101Z"


def test_a_literal_entry_wins(tree):
    tree.put("f@v1", "literal")
    tree.put("f", "one")
    assert tree.cat("f@v1") == b"literal"
    assert tree.cat("f@@/v1") == b"one"
    tree.unlink("f@v1")
    assert tree.cat("f@v1") == b"one"
    assert tree.errno("put", "f@v1", "again") == "EROFS"


@pytest.mark.parametrize("name", ["f@v1", "f@v9", "f@-1h", "f@20261121T100000Z", "f@t=now", "f@@"])
def test_history_cannot_be_forged(tree, name):
    tree.put("f", "one")
    tree.put("g", "other")
    tree.mkdir("d")
    tree.unlink("f")  # History is enough, a live entry need not be.
    made = {
        "put": (name, "forged"),
        "mkdir": (name,),
        "symlink": ("g", name),
        "link": ("g", name),
        "mknod": (name, 0o100644),
        "rename": ("g", name),
    }
    for call, arguments in made.items():
        # Where the name shows something, the kernel knows that it exists, or that it cannot be written to.
        assert tree.errno(call, *arguments) in {"EINVAL", "EEXIST", "EROFS", "EISDIR"}, call
        if not tree.exists(name):
            assert tree.errno(call, *arguments) == "EINVAL", call
    assert tree.ls() == ["d", "g"]


@pytest.mark.parametrize("name", [".@v1", ".@-1h", ".@t=now", ".@deleted"])
def test_nothing_may_be_named_like_the_history_of_the_directory_itself(tree, name):
    assert tree.errno("put", name, "x") in {"EINVAL", "EROFS"}
    assert tree.ls() == []


@pytest.mark.parametrize("name", FOREIGN)
def test_names_of_other_peoples_trees_are_plain_names(tree, name):
    tree.put(name, "plain")
    assert tree.cat(name) == b"plain"
    assert tree.cat(f"{name}@v1") == b"plain"
    tree.rename(name, "x")
    tree.rename("x", name)
    assert tree.ls() == [name]


def test_a_spec_of_a_base_without_history_is_a_plain_name(tree):
    for name in ("f@v1", "f@20261121T100000Z", "f@tag-x", "f@t=garbage", "f@@"):
        assert tree.errno("stat", name) == "ENOENT"
        tree.put(name, name)
        assert tree.cat(name) == name.encode()


def test_bare_text_that_is_not_the_grammar_is_a_plain_name(tree):
    tree.put("f", "one")
    for name in ("f@vx", "f@2x", "f@v01", "f@v1.2", "f@tag-1", "f@-5", "f@", "f@20261321T100000Z"):
        assert tree.errno("stat", name) == "ENOENT", name
        tree.put(name, name)
        assert tree.cat(name) == name.encode()


def test_a_directory_can_turn_parsing_off_below(tree):
    tree.mkdir("d")
    tree.mkdir("d/below")
    tree.put("d/f", "one")
    tree.put("d/below/f", "one")
    tree.setxattr("d", "user.cascade.at_names", "literal")
    for directory in ("d", "d/below"):
        assert tree.errno("stat", f"{directory}/f@v1") == "ENOENT"
        assert tree.errno("stat", f"{directory}/.@t=now") == "ENOENT"
        tree.put(f"{directory}/f@v1", "plain")
        tree.mkdir(f"{directory}/below@tag-x")
        assert tree.cat(f"{directory}/f@v1") == b"plain"
        tree.rmdir(f"{directory}/below@tag-x")
    assert tree.cat("d@t=now/f") == b"one"  # The name of d itself is its parent's.
    assert tree.cat(".cascade/at/now/d/f") == b"one"
    tree.setxattr("d/below", "user.cascade.at_names", "history")
    tree.unlink("d/below/f@v1")
    assert tree.cat("d/below/f@v1") == b"one"
    tree.removexattr("d", "user.cascade.at_names")
    assert tree.cat("d/f@v1") == b"plain"


def test_parsing_turned_off_at_the_root_leaves_the_unambiguous_form(tree):
    tree.put("f", "one")
    moment = tree.now()
    tree.setxattr("", "user.cascade.at_names", "literal")
    assert not tree.exists("f@v1")
    assert tree.cat(f".cascade/at/{moment}/f") == b"one"


def test_the_unambiguous_forms(tree):
    tree.mkdir("d")
    tree.put("d/x.csv", "one")
    moment = tree.now()
    tree.put("d/x.csv", "two")
    tree.wait(11)
    fid = tree.cascade("d/x.csv", "fid")
    for path in (
        f".cascade/at/{moment}/d/x.csv",
        ".cascade/at/-10s/d/x.csv",
        ".cascade/at/2026-11-21T10:00:01/d/x.csv",
        f".cascade/by-id/{fid}/v1",
        "d/x.csv@@/v1",
        "d/x.csv@@/v1.csv",
    ):
        assert tree.exists(path), path
    assert tree.cat(f".cascade/at/{moment}/d/x.csv") == b"one"
    assert tree.cat(f".cascade/by-id/{fid}/v2") == b"two"
    assert tree.cat(".cascade/at/now/d/x.csv") == b"two"
    assert tree.ls(f".cascade/by-id/{fid}") == ["v1", "v2"]
    for path in ("at/tomorrow", "at/2126", "at/v1", "at/now.csv", "by-id/0", "by-id/99", "by-id/x"):
        assert tree.errno("stat", f".cascade/{path}") == "ENOENT", path
    for name in ("v0", "v3", "v01", "1", f"v{10**30}"):
        assert tree.errno("stat", f".cascade/by-id/{fid}/{name}") == "ENOENT", name


def test_the_root_and_every_directory_have_a_name_for_themselves_then(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    tree.put("d/f", "two")
    for path in (f".@{moment}/d/f", f"d/.@{moment}/f", f"d@{moment}/f", f"./.@{moment}/d/f"):
        assert tree.cat(path) == b"one", path


def test_one_spec_a_path(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    for name in ("f@v1", f"f@{moment}", "f@@", f".@{moment}", "f@tag-x", ".cascade"):
        assert tree.errno("stat", f"d@{moment}/{name}") == "ENOENT", name
    tree.put("d/g@v1", "literal")
    tree.put("d/g", "x")
    assert tree.cat("d@t=now/g@v1") == b"literal"


def test_name_at_T_is_the_name_then_and_name_at_vN_the_names_history_now(tree):
    tree.put("a", "first a")
    tree.put("b", "first b")
    moment = tree.now()
    tree.rename("a", "c")
    tree.rename("b", "a")
    assert tree.cat(f"a@{moment}") == tree.cat(f".@{moment}/a") == b"first a"
    assert tree.cat("a@v-0") == b"first b"


def test_deleted_names_keep_their_past(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    moment = tree.now()
    tree.unlink("d/f")
    assert tree.cat("d/f@v1") == b"one"
    assert tree.cat(f"d/f@{moment}") == b"one"
    assert tree.cat(f"d@{moment}/f") == b"one"
    assert tree.versions("d/f") == ["v1"]
    assert tree.cat("d/f@deleted") == b"one"
    assert tree.ls("d/.@deleted") == ["f"]
    assert tree.cat("d/.@deleted/f") == b"one"
    tree.rmdir("d")
    assert tree.cat(f"d@{moment}/f") == b"one"
    assert tree.ls(".@deleted") == ["d"]
    assert tree.exists("d@@")


def test_deleted_means_not_there_now(tree):
    tree.put("f", "one")
    tree.unlink("f")
    tree.put("f", "two")
    assert tree.ls(".@deleted") == []
    assert tree.errno("cat", "f@deleted") == "ENOENT"
    assert tree.errno("cat", ".@deleted/f") == "ENOENT"
    tree.rename("f", "g")  # Moved away is gone as well.
    assert tree.ls(".@deleted") == ["f"]


def test_a_name_made_and_removed_before_its_close_hides_no_deleted_file(tree):
    tree.put("f", "one")
    tree.unlink("f")
    for _ in range(3):
        file = tree.open("f", 0o101)
        tree.unlink("f")
        tree.close(file)
    tree.put("g", "x")
    tree.unlink("g")
    assert tree.ls(".@deleted") == ["f", "g"]
    assert tree.cat(".@deleted/f") == tree.cat("f@deleted") == b"one"
    assert tree.versions("f") == ["v1"]
    file = tree.open("h", 0o101)
    tree.unlink("h")
    tree.close(file)
    assert tree.ls(".@deleted") == ["f", "g"]  # Nothing of h was ever a version.
    assert tree.errno("cat", "h@deleted") == "ENOENT"


def test_long_names_have_a_past(tree):
    name = "n" * 255
    tree.put(name, "one")
    tree.put(name, "two")
    moment = tree.now()
    assert tree.cat(f"{name}@v1") == b"one"
    assert tree.cat(f"{name}@{moment}") == b"two"
    assert tree.versions(name) == ["v1", "v2"]
    for longer in ("n" * 256, "n" * 1000):
        assert tree.errno("stat", f"{longer}@v1") == "ENOENT"


@pytest.mark.parametrize(
    ("base", "listed"), [("x.csv.gz", "v1.csv.gz"), ("README", "v1"), ("python3.12", "v1")]
)
def test_what_is_printed_is_canonical(tree, base, listed):
    tree.put(base, "one")
    assert tree.versions(base) == [listed]
    canonical = tree.cascade(f"{base}@v1", "canonical")
    assert tree.cat(canonical) == b"one"
    assert canonical == base.replace(".csv.gz", "") + "@v1" + (".csv.gz" if "csv" in base else "")
    assert tree.cascade(f"{base}@t=now", "canonical") == canonical


def test_printed_times_are_canonical_and_lead_back(tree):
    tree.mkdir("d")
    tree.put("d/f", "one")
    canonical = tree.cascade("d@t=now", "canonical")
    assert canonical.startswith("d@20261121T100000")
    assert canonical.endswith("Z")
    assert tree.ls(canonical) == ["f"]
    for name in tree.ls("d@@"):
        assert tree.exists(f"d@{name}"), name


def test_versions_list_what_can_be_opened_with_true_sizes_and_times(tree):
    tree.put("x.csv", "one")
    tree.utime("x.csv", 1_000_000_007)
    tree.put("x.csv", "three")
    tree.unlink("x.csv")
    tree.put("x.csv", "")
    assert tree.versions("x.csv") == ["v1.csv", "v2.csv", "v4.csv"]
    assert [tree.stat(f"x.csv@@/v{n}.csv").size for n in (1, 2, 4)] == [3, 5, 0]
    assert tree.stat("x.csv@@/v1.csv").number == tree.stat("x.csv@v1").number
    for name in ("v3", "v3.csv", "v0", "v5", "v1.txt", "v01", "x", "v" + "9" * 30):
        assert tree.errno("stat", f"x.csv@@/{name}") == "ENOENT", name


def test_a_directory_lists_instants_labels_first(tree):
    tree.mkdir("d")
    tree.mkdir("d/e")
    tree.mkdir("other")
    for number in range(20):
        tree.put("d/e/f", str(number))
        tree.put("other/f", str(number))
    tree.mkdir("d@tag-b")
    tree.mkdir("d@tag-a")
    names = tree.ls("d@@", in_order=True)
    assert [name for name in names if name.startswith("tag-")] == names[:2] == ["tag-a", "tag-b"]
    instants = names[2:]
    # Made e, made f, and 20 commits; nothing that happened elsewhere.
    assert len(instants) == 22
    assert [tree.cat(f"d@@/{name}/e/f") for name in instants[2:]] == [
        str(number).encode() for number in range(20)
    ]
    assert tree.cat("d@@/tag-a/e/f") == b"19"
    assert tree.cat(f"d@@/{instants[5]}/e/f") == tree.cat(f"d@{instants[5]}/e/f")


def test_a_listing_of_instants_survives_commits_while_it_is_read(tree):
    tree.mkdir("d")
    for number in range(30):
        tree.put("d/f", str(number))
    before = tree.ls("d@@")
    names = tree.ls("d@@", between=lambda: len(tree.ls("d@@")) > 80 or tree.put("d/f", "more"))
    assert set(before) <= set(names)
    assert len(names) == len(set(names))


def test_the_instants_listed_are_the_last_thousand(tree):
    tree.mkdir("d")
    for number in range(1010):
        tree.chmod("d", 0o700 + number % 2)  # Touches the root, where d is.
    assert len(tree.ls(".@@")) == 1000


def test_listings_of_history_are_found_by_name_only(tree):
    tree.put("f", "one")
    tree.mkdir("d")
    assert tree.ls() == ["d", "f"]
    for name in ("f@@", "d@@", ".@@", "f@@/.log", "d@@/.log", ".@deleted"):
        assert tree.exists(name), name
    assert ".log" not in tree.ls("f@@") + tree.ls("d@@")


def test_what_may_come_to_be_is_never_remembered_as_absent(tree):
    fs, caller = tree.fs, tree.caller
    tree.put("f", "one")
    listing = fs.lookup(ROOT, b"f@@", caller)
    for parent, name in ((ROOT, b"f@v2"), (listing.number, b"v2")):
        with pytest.raises(Exception, match="no such"):
            fs.lookup(parent, name, caller)
        assert fs.negative_timeout_s(name) == 0
    with pytest.raises(Exception, match="no such"):
        fs.lookup(ROOT, b"absent", caller)
    assert fs.negative_timeout_s(b"absent") > 86_400  # The kernel makes it itself, and knows.
    fs.forget(listing.number, 1)


def test_a_directory_whose_files_are_older_than_it_lists_its_own_instants(tree):
    tree.mkdir("old")
    tree.put("old/f", "one")
    tree.mkdir("young")
    tree.rename("old", "young/old")
    for name in tree.ls("young@@"):
        assert tree.exists(f"young@@/{name}")
    assert tree.ls("young@@")


def test_parsing_is_turned_off_by_the_owner(tree):
    tree.mkdir("d")
    tree.chmod("d", 0o777)
    tree.put("d/f", "one")
    with tree.user(1000):
        assert tree.errno("setxattr", "d", "user.cascade.at_names", "literal") == "EPERM"
        assert tree.cat("d/f@v1") == b"one"
    tree.setxattr("d", "user.cascade.at_names", "literal")
    with tree.user(1000):
        assert tree.errno("removexattr", "d", "user.cascade.at_names") == "EPERM"
