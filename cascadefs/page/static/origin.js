// Where a version comes from: versions and runs in layers, the version itself at the end, drawn as one picture that is also links.

import { h, svg } from "./dom.js";
import { ask } from "./store.js";
import { clock, date, milliseconds, name, parent, plural } from "./words.js";

const WIDTH = 164;
const HEIGHT = 50;
const ACROSS = 50;
const DOWN = 14;
const INDENT = 22;

export async function origin(path, version, address, signal) {
  const graph = await ask("why", { path, version }, signal);
  const runs = Object.keys(graph.runs).length;
  const upright = matchMedia("(max-width: 720px)").matches;
  const said = runs
    ? `Made by ${plural(runs, "run")} from ${plural(Object.keys(graph.versions).length - 1, "version")}${graph.left_out ? `; ${plural(graph.left_out, "input")} more` : ""}.`
    : "Written by a program: no run of a script made it.";
  return h("div", { class: "origin" }, h("p", { class: "note" }, said), h("div", { class: "graph", tabindex: "0", role: "region", "aria-label": "Origin" }, upright ? outline(graph, address) : draw(graph, address)));
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

const picture = (width, height, ...shown) => {
  const heads = ["head", "head-trigger"].map((id) => svg("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, svg("path", { d: "M0 .5 7.5 4 0 7.5z" })));
  return svg("svg", { class: "lineage", viewBox: `-6 -6 ${width + 12} ${height + 12}`, width: width + 12, height: height + 12, role: "group" }, svg("defs", {}, heads), shown);
};

const marked = (how) => `url(#${how === "trigger" ? "head-trigger" : "head"})`;

function box(graph, node, x, y, address) {
  return node in graph.runs ? run(graph.runs[node], x, y) : file(graph.versions[node], x, y, node === graph.target, address);
}

function draw(graph, address) {
  const rows = ordered(layers(graph), graph.edges);
  const height = Math.max(...rows.map((row) => row.length)) * (HEIGHT + DOWN) - DOWN;
  const width = rows.length * (WIDTH + ACROSS) - ACROSS;
  const place = new Map();
  rows.forEach((row, at) => {
    const start = (height - (row.length * (HEIGHT + DOWN) - DOWN)) / 2;
    row.forEach((node, index) => place.set(node, [at * (WIDTH + ACROSS), start + index * (HEIGHT + DOWN)]));
  });
  const edges = graph.edges.filter(([from, to]) => place.has(from) && place.has(to)).sort((a, b) => place.get(a[0])[1] - place.get(b[0])[1]);
  const lines = edges.map(([from, to, how]) => {
    // Those that end at one node end one below the other.
    const beside = edges.filter((edge) => edge[1] === to);
    const step = Math.min(9, (HEIGHT - 16) / beside.length);
    const port = (beside.findIndex((edge) => edge[0] === from) - (beside.length - 1) / 2) * step;
    const [x, y] = [place.get(from)[0] + WIDTH, place.get(from)[1] + HEIGHT / 2];
    const [toX, toY] = [place.get(to)[0] - 1, place.get(to)[1] + HEIGHT / 2 + port];
    const half = (toX - x) / 2;
    return svg("path", { class: how, d: `M${x} ${y}C${x + half} ${y} ${toX - half} ${toY} ${toX} ${toY}`, "marker-end": marked(how) });
  });
  return picture(width, height, lines, [...place].map(([node, [x, y]]) => box(graph, node, x, y, address)));
}

// The same for a narrow page: what was made above, what it was made from below it and further in.
function outline(graph, address) {
  const lines = [];
  const boxes = [];
  const seen = new Set();
  let widest = 0;
  const add = (node, depth, above, how) => {
    const [x, y] = [depth * INDENT, boxes.length * (HEIGHT + 8)];
    if (above) lines.push(svg("path", { class: how, d: `M${x} ${y + HEIGHT / 2}H${above[0] + 10}V${above[1] + HEIGHT + 1}`, "marker-end": marked(how) }));
    boxes.push(box(graph, node, x, y, address));
    widest = Math.max(widest, x + WIDTH);
    if (seen.has(node)) return;
    seen.add(node);
    for (const [from, to, kind] of graph.edges) if (to === node) add(from, depth + 1, [x, y], kind);
  };
  add(graph.target, 0, null, "");
  return picture(widest, boxes.length * (HEIGHT + 8) - 8, lines, boxes);
}

const short = (text, length) => (text.length > length ? "…" + text.slice(1 - length) : text);

function file(one, x, y, isTarget, address) {
  const where = one.known ? address({ path: parent(one.path), file: name(one.path), at: one.timestamp, tab: "origin", compare: null }) : null;
  const box = svg(
    "g", { class: `box${isTarget ? " target" : ""}${one.known ? "" : " gone"}`, transform: `translate(${x} ${y})` },
    svg("title", {}, `${one.path}, version ${one.version}${one.known ? `, ${date(one.timestamp)}, ${clock(one.timestamp)}` : ", let go or not yours to see"}`),
    svg("rect", { width: WIDTH, height: HEIGHT, rx: 8 }),
    svg("text", { class: "label", x: 12, y: 22 }, short(name(one.path), 15)),
    svg("text", { class: "chip", x: WIDTH - 12, y: 22, "text-anchor": "end" }, `v${one.version}`),
    svg("text", { class: "detail", x: 12, y: 40 }, short(parent(one.path) || "/", 13)),
    svg("text", { class: "detail", x: WIDTH - 12, y: 40, "text-anchor": "end" }, one.known ? clock(one.timestamp) : ""),
  );
  return where ? svg("a", { href: where, "data-focus": `${one.path}@${one.version}` }, box) : box;
}

function run(one, x, y) {
  return svg(
    "g", { class: "run", transform: `translate(${x} ${y})` },
    svg("title", {}, `${one.binding} in /${one.base}, script ${one.script_id}, attempt ${one.attempt}${one.node ? `, on ${one.node}` : ""}`),
    svg("rect", { width: WIDTH, height: HEIGHT, rx: HEIGHT / 2 }),
    svg("text", { class: "label", x: WIDTH / 2, y: 22, "text-anchor": "middle" }, short(one.binding, 20)),
    svg("text", { class: "detail", x: WIDTH / 2, y: 40, "text-anchor": "middle" }, `${milliseconds(one.duration_ms)} · ${one.script_id}`),
  );
}
