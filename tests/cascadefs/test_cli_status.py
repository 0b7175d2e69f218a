"""Goal: `cascadefs status` says of a mount where everything is kept, and how that is. Method: rows made of figures."""

from cascadefs.cli.mount import _rows

STORE = {"records": 1200, "records_durable": 1190, "shards": {"0": {}, "1": {}}}
CLUSTER = {"nodes": {"n1": True, "n2": False}, "trouble": "n2: connection refused"}


def test_a_mount_of_a_cluster_names_its_nodes_and_what_is_wrong():
    rows = dict(_rows({"store": STORE, "cluster": CLUSTER, "data": None}))
    assert rows["cluster"] == "2 shards; nodes n1, n2 (away)"
    assert rows["log"] == "1,200 records, 10 not synced"
    assert rows["trouble"] == "n2: connection refused"
    assert "data" not in rows


def test_a_mount_of_its_own_names_its_data():
    rows = dict(_rows({"store": {**STORE, "log_bytes": 5000}, "cluster": None, "data": "/d"}))
    assert (rows["data"], "cluster" in rows) == ("/d", False)
    assert rows["log"] == "5.0 kB, 1,200 records, 10 not synced"
    assert dict(_rows({"data": None}))["data"] == "in memory"
