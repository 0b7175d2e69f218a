// Where a version comes from: versions and runs in layers, the version itself at the end, drawn as one picture that is also links.

import { h, svg } from "./dom.js";
import { ask } from "./store.js";
import { clock, date, milliseconds, name, parent, plural } from "./words.js";

const WIDTH = 188;
const HEIGHT = 52;
const ACROSS = 64;
const DOWN = 18;

export async function origin(path, version, address, signal) {
  const graph = await ask("why", { path, version }, signal);
  const runs = Object.keys(graph.runs).length;
  const upright = matchMedia("(max-width: 720px)").matches;
  const said = runs
    ? `Made by ${plural(runs, "run")} from ${plural(Object.keys(graph.versions).length - 1, "version")}${graph.left_out ? `; ${plural(graph.left_out, "input")} more` : ""}.`
    : "Written by a program: no run of a script made it.";
  return h("div", { class: "origin" }, h("p", { class: "note" }, said), h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "Origin" }, draw(graph, upright, address)));
}

// How many steps it is from each node to the target; a node is as far as its longest way (Sugiyama's layering).
function layers({ target, edges }) {
  const into = new Map();
  for (const [from, to] of edges) into.set(to, [...(into.get(to) ?? []), from]);
  const depth = new Map();
  const visit = (node, at, way) => {
    if (way.has(node) || (depth.get(node) ?? -1) >= at) return;
    depth.set(node, at);
    for (const from of into.get(node) ?? []) visit(from, at + 1, new Set(way).add(node));
  };
  visit(target, 0, new Set());
  const found = [];
  for (const [node, at] of depth) (found[at] ??= []).push(node);
  return found.reverse();
}

// Fewer crossings: each layer in the order of the middle of its neighbours, there and back (barycentres).
function ordered(rows, edges) {
  const near = new Map();
  for (const [from, to] of edges) {
    near.set(from, [...(near.get(from) ?? []), to]);
    near.set(to, [...(near.get(to) ?? []), from]);
  }
  const sort = (row, beside) => {
    const place = new Map(beside.map((node, at) => [node, at / Math.max(1, beside.length - 1)]));
    const middle = (node) => {
      const found = (near.get(node) ?? []).map((one) => place.get(one)).filter((one) => one !== undefined);
      return found.length ? found.reduce((a, b) => a + b, 0) / found.length : 0.5;
    };
    const key = new Map(row.map((node) => [node, middle(node)]));
    row.sort((a, b) => key.get(a) - key.get(b));
  };
  for (let turn = 0; turn < 4; turn += 1) {
    for (let at = rows.length - 2; at >= 0; at -= 1) sort(rows[at], rows[at + 1]);
    for (let at = 1; at < rows.length; at += 1) sort(rows[at], rows[at - 1]);
  }
  return rows;
}

function draw(graph, upright, address) {
  const rows = ordered(layers(graph), graph.edges);
  const widest = Math.max(...rows.map((row) => row.length));
  const [along, beside] = upright ? [HEIGHT + 40, WIDTH + 14] : [WIDTH + ACROSS, HEIGHT + DOWN];
  const breadth = widest * beside - (upright ? 14 : DOWN);
  const length = rows.length * along - (upright ? 40 : ACROSS);
  const place = new Map();
  rows.forEach((row, at) => {
    const start = (breadth - (row.length * beside - (upright ? 14 : DOWN))) / 2;
    row.forEach((node, index) => place.set(node, upright ? [start + index * beside, at * along] : [at * along, start + index * beside]));
  });
  const [width, height] = upright ? [breadth, length] : [length, breadth];
  const lines = graph.edges.filter(([from, to]) => place.has(from) && place.has(to)).map(([from, to, how]) => {
    const [a, b] = [place.get(from), place.get(to)];
    const d = upright
      ? curve(a[0] + WIDTH / 2, a[1] + HEIGHT, b[0] + WIDTH / 2, b[1] - 5, true)
      : curve(a[0] + WIDTH, a[1] + HEIGHT / 2, b[0] - 5, b[1] + HEIGHT / 2, false);
    return svg("path", { class: how, d, "marker-end": `url(#${how === "trigger" ? "head-trigger" : "head"})` });
  });
  const boxes = [...place].map(([node, [x, y]]) => (node in graph.runs ? run(graph.runs[node], x, y) : file(graph.versions[node], x, y, node === graph.target, address)));
  const heads = ["head", "head-trigger"].map((id) => svg("marker", { id, viewBox: "0 0 8 8", refX: 4, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 0 8 4 0 8z" })));
  return svg("svg", { class: "lineage", viewBox: `-8 -8 ${width + 16} ${height + 16}`, width: width + 16, height: height + 16, role: "group" }, svg("defs", {}, heads), lines, boxes);
}

function curve(x, y, toX, toY, upright) {
  const half = upright ? (toY - y) / 2 : (toX - x) / 2;
  return upright ? `M${x} ${y}C${x} ${y + half} ${toX} ${toY - half} ${toX} ${toY}` : `M${x} ${y}C${x + half} ${y} ${toX - half} ${toY} ${toX} ${toY}`;
}

const short = (text, length) => (text.length > length ? "…" + text.slice(1 - length) : text);

function file(one, x, y, isTarget, address) {
  const where = one.known ? address({ path: parent(one.path), file: name(one.path), at: one.timestamp, tab: "origin", compare: null }) : null;
  const box = svg(
    "g", { class: `version${isTarget ? " target" : ""}${one.known ? "" : " gone"}`, transform: `translate(${x} ${y})` },
    svg("title", {}, `${one.path}, version ${one.version}${one.known ? `, ${date(one.timestamp)}, ${clock(one.timestamp)}` : ", let go or not yours to see"}`),
    svg("rect", { width: WIDTH, height: HEIGHT, rx: 8 }),
    svg("text", { class: "label", x: 12, y: 22 }, short(name(one.path), 18)),
    svg("text", { class: "chip", x: WIDTH - 12, y: 22, "text-anchor": "end" }, `v${one.version}`),
    svg("text", { class: "detail", x: 12, y: 40 }, short(parent(one.path) || "/", 15)),
    svg("text", { class: "detail", x: WIDTH - 12, y: 40, "text-anchor": "end" }, one.known ? clock(one.timestamp) : ""),
  );
  return where ? svg("a", { href: where, "data-focus": `${one.path}@${one.version}` }, box) : box;
}

function run(one, x, y) {
  return svg(
    "g", { class: "run", transform: `translate(${x} ${y})` },
    svg("title", {}, `${one.binding} in /${one.base}, script ${one.script_id}, attempt ${one.attempt}${one.node ? `, on ${one.node}` : ""}`),
    svg("rect", { width: WIDTH, height: HEIGHT, rx: HEIGHT / 2 }),
    svg("text", { class: "label", x: WIDTH / 2, y: 22, "text-anchor": "middle" }, short(one.binding, 22)),
    svg("text", { class: "detail", x: WIDTH / 2, y: 40, "text-anchor": "middle" }, `${milliseconds(one.duration_ms)} · script ${one.script_id}`),
  );
}
