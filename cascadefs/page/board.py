"""The board: how a store is at one moment, as the page shows it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cascadefs.page.prices import Used

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cascadefs.page.prices import Prices

__all__ = ["board", "clustered", "mounted"]

RUNS_MAX: Final = 200
"""Shown."""


def mounted(status: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What `.cascade/status` of a mount says, in the words of a cluster of one: one pool, one shard, one replica."""
    store = status.get("store", {})
    records, durable = store.get("records", 0), store.get("records_durable", 0)
    cluster = status.get("cluster")
    shard = {
        "shard": 0,
        "pool": "all",
        "leader": name,
        "members": [name],
        "records": records,
        "behind": max(0, records - durable),
        "frontier_lag_ms": 0,
        "disk_bytes": store.get("log_bytes", 0),
        "is": "well" if not status.get("trouble") else str(status["trouble"]),
    }
    pool = {
        "name": "all",
        "path": "/",
        "replicas": 1,
        "replicas_min": 1,
        "durability": "memory" if status.get("volatile") else "disk",
    }
    nodes = [{"name": name, "state": "alive", "addresses": [], "labels": []}]
    return {
        "pools": [pool] if cluster is None else [],
        "shards": [shard] if cluster is None else [],
        "nodes": nodes if cluster is None else [],
        "files": store.get("live_inodes", 0),
        "bytes": store.get("live_bytes", 0),
        "trouble": status.get("trouble"),
        "triggers": status.get("triggers", {"mode": "off"}),
    }


def clustered(statuses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What nodes say of themselves, as one: each shard by whoever leads it, if it is among them, else by any that holds it."""
    told = sorted(statuses, key=lambda status: status["revision"])
    said: dict[int, dict[str, Any]] = {}
    for status in told:
        for figure in status["shards"]:
            if figure["shard"] not in said or figure["role"] == "leader":
                said[figure["shard"]] = figure
    ends = [
        (figure["shard"], figure["last_index"]) for status in told for figure in status["shards"]
    ]
    newest = told[-1]["cluster"] if told else {}
    return {
        "pools": newest.get("pools", []),
        "shards": [
            _shard(placed, said.get(placed["shard"], {}), ends)
            for placed in newest.get("shards", [])
        ],
        "nodes": newest.get("nodes", []),
        "trouble": None,
        "triggers": {"mode": "off"},
    }


def _shard(
    placed: Mapping[str, Any], figure: Mapping[str, Any], ends: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    lengths = [index for shard, index in ends if shard == placed["shard"]]
    return {
        "shard": placed["shard"],
        "pool": placed["pool"],
        "leader": placed["leader"],
        "members": placed["members"],
        "records": figure.get("committed"),
        "behind": max(lengths) - min(lengths) if len(lengths) > 1 else None,
        "frontier_lag_ms": figure.get("frontier_lag_ms"),
        "disk_bytes": figure.get("log_bytes", 0),
        "is": placed["is"] if not figure.get("failure") else str(figure["failure"]),
    }


def board(
    standing: Mapping[str, Any],
    prices: Prices | None,
    *,
    now: int,
    versions_per_s: float | None,
    is_more: bool,
    latest: list[dict[str, Any]],
) -> dict[str, Any]:
    """What is shown now.

    Args:
        standing: what a source answers.
        prices: what things cost, if anybody has said.
        now: in microseconds.
        versions_per_s: counted since the last look; None: there was none.
        is_more: whether there were more than were counted.
        latest: the newest changes, the newest first.
    """
    triggers = standing.get("triggers", {})
    memory = triggers.get("workers", {}).get("memory", {}) if triggers.get("workers") else {}
    running = triggers.get("running", [])
    running = running if isinstance(running, list) else []
    bindings = [
        {
            **one,
            "base": base["path"],
            "memory_bytes": memory.get(one["script"], 0),
        }
        for base in triggers.get("bases", [])
        for one in base["bindings"]
    ]
    problems = [
        {"base": base["path"], "script": script, "message": problem["message"]}
        for base in triggers.get("bases", [])
        for script, problem in base["problems"].items()
    ]
    shards = standing.get("shards", [])
    used = Used(
        nodes=sum(1 for node in standing.get("nodes", []) if node["state"] == "alive"),
        runs=len(running),
        memory_bytes=sum(memory.values()),
        disk_bytes=sum(shard["disk_bytes"] * max(1, len(shard["members"])) for shard in shards),
    )
    return {
        "now": now,
        "versions_per_s": None if versions_per_s is None else round(versions_per_s, 1),
        "is_more": is_more,
        "latest": latest,
        "pools": standing.get("pools", []),
        "shards": shards,
        "nodes": standing.get("nodes", []),
        "files": standing.get("files"),
        "bytes": standing.get("bytes"),
        "disk_bytes": used.disk_bytes,
        "trouble": standing.get("trouble"),
        "mode": triggers.get("mode", "off"),
        "where": triggers.get("where"),
        "bindings": bindings,
        "problems": problems,
        "running": running[:RUNS_MAX],
        "cost": _cost(prices, used, bindings),
    }


def _cost(
    prices: Prices | None, used: Used, bindings: list[dict[str, Any]]
) -> dict[str, Any] | None:
    if prices is None:
        return None
    parts = prices.per_second(used)
    of_run = prices.per_second(Used(nodes=0, runs=1))["runs"]
    return {
        "currency": prices.currency,
        "per_second": sum(parts.values()),
        "parts": parts,
        "bindings": {
            f"{one['base']}/{one['name']}": of_run * (one["running"] or 0)
            + prices.per_second(Used(nodes=0, memory_bytes=one["memory_bytes"]))["memory"]
            for one in bindings
        },
    }
