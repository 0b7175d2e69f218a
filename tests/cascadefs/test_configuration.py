"""What is told to the processes of a cluster, and what is said of a mistake in it.

Goal: a configuration that is written is read as it was; any mistake is named with file, key and remedy. Method: examples of
each mistake; hypothesis for what is written.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadefs.configuration import (
    CLUSTER,
    MOUNT,
    NODE,
    Cluster,
    Etcd,
    Mount,
    Node,
    Transport,
    fabric,
    load,
    spell,
)
from storage.errors import Unusable
from storage.transport.verbs import Fabric

NODE_TOML = """
cluster = "c0ffee"
name = "n1"
listen = "127.0.0.1:7400"
[etcd]
endpoints = ["http://127.0.0.1:2379", "https://etcd.example:2379"]
"""


def read(tmp_path, text, kind=Node):
    path = tmp_path / "node.toml"
    path.write_text(text)
    return load(path, kind)


def test_a_short_configuration_of_a_node(tmp_path):
    node = read(tmp_path, NODE_TOML)
    assert node.name == "n1"
    assert node.etcd.prefix == "/cascadefs/"
    assert node.data == str(tmp_path / "data")
    assert node.credentials == str(tmp_path / "credentials")
    assert node.log == ""


def test_paths_are_relative_to_the_file_unless_they_are_absolute(tmp_path):
    text = 'data = "../d"\ncredentials = "/etc/c"\nlog = "n.log"' + NODE_TOML + 'ca = "ca.crt"\n'
    node = read(tmp_path, text)
    assert node.data == str(tmp_path / "../d")
    assert node.credentials == "/etc/c"
    assert node.log == str(tmp_path / "n.log")
    assert node.etcd.ca == str(tmp_path / "ca.crt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("name =", "nmae ="), r"nmae: there is no such key; do you mean 'name'\?"),
        (("name =", "quux ="), r"quux: there is no such key; there are cluster, name, listen"),
        (('name = "n1"', ""), r"name: is missing; add it"),
        (("[etcd]", "[etdc]"), r"etdc: there is no such key; do you mean 'etcd'\?"),
        (
            ("endpoints", "endpoint"),
            r"etcd\.endpoint: there is no such key; do you mean 'endpoints'\?",
        ),
        (
            ('"n1"', '"Node One"'),
            r"name: not of the form it must have, and is 'Node One'; change it",
        ),
        (('"n1"', "7"), r"name: expected `str`, got `int`, and is 7; change it"),
        (("7400", "port"), r"listen: not of the form"),
        (("7400", "74000"), r"listen: '127\.0\.0\.1:74000' has no such port"),
        (
            ('"http://127.0.0.1:2379"', "9"),
            r"etcd\.endpoints\[0\]: expected `str`, got `int`, and is 9",
        ),
        (
            ("etcd.example:2379", "etcd.example"),
            r"etcd\.endpoints\[1\]: .* is no end point; write https",
        ),
        (
            ("https://etcd", "http://etcd"),
            r"etcd\.endpoints\[1\]: .* without TLS; .* etcd\.plain = true",
        ),
        (("127.0.0.1:7400", "0.0.0.0:7400"), r"advertise: is missing; say where others reach"),
        (
            ("[etcd]", "lease_s = 1\n[etcd]"),
            r"lease_s: expected `float` >= 2\.0, and is 1; change it",
        ),
        (("[etcd]", "[etcd]\ntimeout_s = 2"), r"etcd\.timeout_s: 2 s leave no time"),
        (("[etcd]", '[etcd]\ncertificate = "x"'), r"etcd\.certificate and etcd\.key go together"),
        (("[etcd]", '[etcd]\ncertificate = "x"\nkey = "y"'), r"etcd\.ca: is missing"),
        (
            ("[etcd]", 'triggers = "on"\n[etcd]'),
            r"triggers: 'on' is none of 'off', 'owner', 'root'",
        ),
        (
            ("[etcd]", 'http_key = "k"\n[etcd]'),
            r"http_certificate: is missing; name the certificate",
        ),
        (("[etcd]", '[etcd]\nprefix = "x"'), r"etcd\.prefix: not of the form"),
        (("[etcd]", "[etcd"), r"no TOML: .*; mend it there"),
        (
            ("[etcd]", 'http = "10.0.0.1:7480"\n[etcd]'),
            r"http_certificate: is missing; beyond this machine the page is served over TLS only",
        ),
        (("[etcd]", 'http = "127.0.0.1:70000"\n[etcd]'), r"http: '127\.0\.0\.1:70000' has no such"),
        (
            ("[etcd]", '[transport]\nkind = "pigeon"\n[etcd]'),
            r"transport\.kind: 'pigeon' is none of 'tcp', 'verbs'; change it",
        ),
        (
            ("[etcd]", '[transport]\nknid = "tcp"\n[etcd]'),
            r"transport\.knid: there is no such key; do you mean 'kind'\?",
        ),
        (
            ("[etcd]", '[transport]\ndevice = "mlx5_0"\n[etcd]'),
            r'transport\.device: is for verbs; say kind = "verbs", too',
        ),
        (
            ("[etcd]", '[transport]\nfallback = "tcp"\n[etcd]'),
            r"transport\.fallback: is for verbs",
        ),
        (
            ("[etcd]", '[transport]\nkind = "verbs"\nretry_count = 7\n[etcd]'),
            r"transport\.retry_count = 7: use 0 to 6",
        ),
        (
            ("[etcd]", '[transport]\nkind = "verbs"\nring_bytes = 100000\n[etcd]'),
            r"transport\.ring_bytes = 100000: use a power of two",
        ),
        (
            ("[etcd]", '[transport]\nkind = "verbs"\nmtu_bytes = 1500\n[etcd]'),
            r"transport\.mtu_bytes = 1500: use one of \(256, 512, 1024, 2048, 4096\)",
        ),
        (
            ("[etcd]", 'labels = ["a b"]\n[etcd]'),
            r"labels\[0\]: not of the form it must have, and is 'a b'",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_helps(tmp_path, change, said):
    assert change[0] in NODE_TOML
    with pytest.raises(Unusable) as told:
        read(tmp_path, NODE_TOML.replace(*change))
    text = str(told.value)
    assert text.startswith(f"{tmp_path}/node.toml: ")
    assert re.search(said, text), text


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(Unusable, match="No such file or directory; name the file"):
        load(tmp_path / "absent.toml", Node)
    with pytest.raises(Unusable, match="Is a directory"):
        load(tmp_path, Node)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\0")
    with pytest.raises(Unusable, match="no TOML"):
        load(tmp_path / "bytes.toml", Node)
    (tmp_path / "large.toml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(Unusable, match="larger than"):
        load(tmp_path / "large.toml", Node)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(Unusable, match="no TOML"):
        load(tmp_path / "deep.toml", Node)


text = st.text(st.characters(codec="utf-8", exclude_characters="\0\x7f"), max_size=20)
names = st.from_regex("^[a-z0-9][a-z0-9-]{0,31}$", fullmatch=True)
addresses = st.builds("{}:{}".format, names, st.integers(0, 65535))
etcds = st.builds(
    Etcd,
    endpoints=st.lists(st.builds("https://{}:2379".format, names), min_size=1, max_size=3).map(
        tuple
    ),
    prefix=st.sampled_from(["/cascadefs/", "/ö/"]),
    timeout_s=st.floats(0.1, 1),
    ca=text.map("/{}".format),
    plain=st.booleans(),
)
transports = st.one_of(
    st.just(Transport()),
    st.builds(
        Transport,
        kind=st.just("verbs"),
        fallback=st.sampled_from(["", "tcp"]),
        device=names,
        gid=st.one_of(st.just("10.0.0.1"), st.integers(0, 7)),
        mtu_bytes=st.sampled_from([0, 1024]),
    ),
)
labels = st.lists(st.sampled_from(["ssd", "rack=7"])).map(tuple)


@given(
    st.one_of(
        st.builds(Cluster, cluster=text, etcd=etcds, authority=text.map("/{}".format)),
        st.builds(
            Node,
            cluster=text,
            name=names,
            listen=addresses,
            etcd=etcds,
            advertise=st.lists(addresses).map(tuple),
            data=text.map("/{}".format),
            credentials=text.map("/{}".format),
            labels=labels,
            lease_s=st.floats(2, 600),
            transport=transports,
        ),
        st.builds(
            Mount,
            cluster=text,
            nodes=st.lists(addresses, min_size=1).map(tuple),
            credentials=text.map("/{}".format),
        ),
    )
)
def test_what_is_written_is_read_as_it_was(tmp_path_factory, configuration):
    path = tmp_path_factory.getbasetemp() / "spelled.toml"
    path.write_text(spell(configuration))
    base = tmp_path_factory.getbasetemp()
    expected = configuration
    for key in ("data", "credentials", "authority"):  # "//x" is "/x" as a path
        if hasattr(expected, key):
            absolute = str(base / getattr(expected, key))
            expected = msgspec.structs.replace(expected, **{key: absolute})
    if hasattr(expected, "etcd"):
        etcd = msgspec.structs.replace(expected.etcd, ca=str(base / expected.etcd.ca))
        expected = msgspec.structs.replace(expected, etcd=etcd)
    assert load(path, type(configuration)) == expected


def test_what_is_empty_is_left_to_the_transport():
    assert (fabric(Transport("verbs")).device, fabric(Transport("verbs")).gid) == (None, None)
    assert fabric(Transport("verbs", gid=0)).gid == 0
    assert fabric(Transport("verbs")) == Fabric()


def test_all_that_a_fabric_has_can_be_configured():
    keys = {field.name for field in msgspec.structs.fields(Transport)}
    assert keys - {"kind", "fallback"} == {field.name for field in dataclasses.fields(Fabric)}


RDMA = (Path(__file__).resolve().parents[2] / "docs/RDMA.md").read_text()


def test_the_example_in_rdma_is_read_and_its_table_has_all_options(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", RDMA, re.DOTALL)
    assert read(tmp_path, NODE_TOML + example).transport.device == "mlx5_0"
    rows = re.findall(r"^\| (`[a-z_`, ]+) \| ", RDMA, re.MULTILINE)
    named = {name.strip("` ") for row in rows for name in row.split(",")}
    options = {field.name for field in msgspec.structs.fields(Transport)} - {"kind", "fallback"}
    assert options <= named


OPERATIONS = (Path(__file__).resolve().parents[2] / "docs/OPERATIONS.md").read_text()


def test_the_examples_in_operations_are_read(tmp_path):
    examples = re.findall(r"```toml\n# (?:\S*/)?(\w+\.toml)\n(.*?)```", OPERATIONS, re.DOTALL)
    assert [name for name, _ in examples] == [CLUSTER, NODE, MOUNT]
    for (name, text), kind in zip(examples, (Cluster, Node, Mount), strict=True):
        (tmp_path / name).write_text(text)
        assert load(tmp_path / name, kind).cluster == "9e2cf8daf85a9b71"


def test_the_table_in_operations_has_the_defaults():
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", OPERATIONS, re.MULTILINE))
    defaults = {field.name: field.default for field in msgspec.structs.fields(Node)}
    defaults |= {f"etcd.{field.name}": field.default for field in msgspec.structs.fields(Etcd)}
    defaults |= {f"transport.{f.name}": f.default for f in msgspec.structs.fields(Transport)}
    assert rows.keys() <= defaults.keys()
    for key in (
        "data",
        "credentials",
        "lease_s",
        "scrub_mib_per_s",
        "etcd.timeout_s",
        "etcd.prefix",
        "transport.kind",
    ):
        default = defaults[key]
        assert rows[key].strip("`") == (f"{default:g}" if isinstance(default, float) else default)
