// How the store is: what it holds and costs, pools and shards, and what has just changed.

import { spark } from "./chart.js";
import { h, show } from "./dom.js";
import { live } from "./store.js";
import { ago, count, grouped, milliseconds, money, name, parent, perSecond, plural, size } from "./words.js";

const rates = [];
live.listen((board) => {
  if (board.versions_per_s === null) return;
  rates.push(board.versions_per_s);
  if (rates.length > 90) rates.shift();
}, new AbortController().signal);

export function board(main, signal, { place }) {
  const tiles = h("section", { class: "tiles", "aria-label": "In all" });
  const speed = h("section", { class: "card speed", "aria-label": "Versions per second" });
  const shards = h("section", { class: "card", "aria-label": "Shards" });
  const nodes = h("section", { class: "card", "aria-label": "Nodes" });
  const cost = h("section", { class: "card", "aria-label": "Cost" });
  const latest = h("section", { class: "card latest", "aria-label": "Latest changes" });
  const trouble = h("p", { class: "error", hidden: true });
  main.append(h("div", { class: "narrow" }, h("h1", {}, "Store"), trouble, tiles, h("div", { class: "cards" }, speed, cost, shards, latest, nodes)));

  live.listen((now) => {
    trouble.hidden = !now.trouble;
    trouble.textContent = now.trouble ?? "";
    const lags = now.shards.map((shard) => shard.frontier_lag_ms).filter((lag) => lag !== null && lag !== undefined);
    const told = [
      ["files", count(now.files)], ["content now", size(now.bytes)], ["kept on disk", size(now.disk_bytes)],
      ["shards", count(now.shards.length)], ["frontier lag", lags.length ? milliseconds(Math.max(...lags)) : "–"],
    ].filter(([, value]) => value !== "–");
    show(tiles, told.map(([label, value]) => h("div", { class: "tile" }, h("b", {}, value), h("span", {}, label))));
    show(speed, h("h2", {}, "Versions per second"), h("p", { class: "big" }, `${(now.versions_per_s ?? 0).toFixed(now.versions_per_s < 10 ? 1 : 0)}${now.is_more ? "+" : ""}`), spark(rates, { least: 5 }), h("p", { class: "axis" }, h("span", {}, `${rates.length} s ago`), h("span", {}, "now")));
    paintCost(now);
    paintShards(now);
    show(nodes, h("h2", {}, "Nodes"), h("ul", { class: "rows" }, now.nodes.map((node) => h("li", {}, h("span", { class: `badge ${node.state.split(",")[0].split(" ").at(-1)}` }, node.state), h("b", {}, node.name), h("span", { class: "mono detail" }, [...node.addresses, ...node.labels].join("  "))))));
    nodes.hidden = now.nodes.length === 0;
    show(latest, h("h2", {}, "Latest changes"), now.latest.length
      ? h("ol", { class: "rows" }, grouped(now.latest).slice(0, 12).map((one) => h("li", { class: one.kind }, h("a", { class: "mono", "data-focus": `${one.path}@${one.version}`, href: place("files", parent(one.path), { file: name(one.path), at: one.timestamp }) }, one.path), h("span", { class: "version" }, one.kind === "delete" ? "deleted" : `v${one.version}`), h("span", { class: "when" }, ago(one.timestamp, now.now)))))
      : h("p", { class: "note" }, "Nothing yet."));
  }, signal);

  function paintCost({ cost: told }) {
    const labels = { nodes: "nodes", runs: "runs", memory: "memory of workers", disk: "logs on disk" };
    show(cost, h("h2", {}, "Cost"), told
      ? [h("p", { class: "big" }, money(told.per_second, told.currency)), h("p", { class: "note" }, perSecond(told.per_second, told.currency)), h("ul", { class: "rows" }, Object.entries(told.parts).map(([part, value]) => h("li", {}, h("span", {}, labels[part]), h("span", { class: "when" }, money(value, told.currency)))))]
      : h("p", { class: "note" }, "No prices are known: start the page with --prices FILE."));
  }

  function paintShards({ pools, shards: told }) {
    const table = h("table", {}, h("thead", {}, h("tr", {}, ["shard", "leader", "replicas", "records", "behind", "frontier", "disk", "is"].map((label) => h("th", { scope: "col" }, label)))), pools.map((pool) => {
      const mine = told.filter((shard) => shard.pool === pool.name);
      return h("tbody", {}, h("tr", { class: "pool" }, h("th", { colSpan: 8, scope: "rowgroup" }, h("b", {}, pool.name), ` ${pool.path}, ${plural(pool.replicas, "replica")} (${pool.replicas_min} to write), in ${pool.durability === "disk" ? "log files" : "memory"}`)), mine.map((shard) => h("tr", {},
        [["shard", shard.shard], ["leader", shard.leader ?? "–"], ["replicas", `${shard.members.length} of ${pool.replicas}`], ["records", count(shard.records)], ["behind", count(shard.behind)], ["frontier", milliseconds(shard.frontier_lag_ms)], ["disk", size(shard.disk_bytes)], ["is", h("span", { class: `badge ${shard.is === "well" ? "alive" : "away"}` }, shard.is)]].map(([label, value]) => h("td", { "data-label": label }, value)))));
    }));
    show(shards, h("h2", {}, "Pools and shards"), pools.length ? table : h("p", { class: "note" }, "Nothing is known of shards here."));
  }
  return () => {};
}
