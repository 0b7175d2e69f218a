// How two versions of a file differ: lines of text, pictures beside each other, arrays subtracted.

import { h } from "./dom.js";
import { ARRAY_BYTES_MAX, parse, plane } from "./array.js";
import { address, ask, bytes } from "./store.js";
import { clock, figure, size } from "./words.js";

export async function difference(path, number, compare, choose, signal) {
  const { versions } = await ask("versions", { path }, signal);
  const others = versions.map((one) => one.version).filter((one) => one !== number);
  if (!others.length) return h("p", { class: "note" }, "This is the only version there is.");
  const other = others.includes(compare) ? compare : (others.filter((one) => one < number).at(-1) ?? others[0]);
  const found = await ask("difference", { path, before: other, after: number }, signal);
  const select = h(
    "select", { id: "other", "data-focus": "other", onchange: (event) => choose(Number(event.target.value)) },
    versions.filter((one) => one.version !== number).reverse().map((one) =>
      h("option", { value: String(one.version), selected: one.version === other }, `v${one.version} – ${clock(one.timestamp)}`)),
  );
  const head = h("p", { class: "compare" }, h("label", { for: "other" }, "From"), select, h("span", {}, `to v${number}`), tally(found.rows));
  return h("div", { class: "difference" }, head, await shown(path, found));
}

function tally(rows) {
  if (!rows) return null;
  const come = rows.filter((row) => row[0] === "+").length;
  const gone = rows.filter((row) => row[0] === "-").length;
  return h("span", { class: "tally" }, h("ins", {}, `+${come}`), h("del", {}, `−${gone}`));
}

async function shown(path, { kinds, before, after, rows }) {
  if (rows) return rows.length ? lines(rows) : h("p", { class: "note" }, "The two are equal, line by line.");
  if (kinds[0] === "image" && kinds[1] === "image") {
    return h("div", { class: "pair" }, [before, after].map((one) =>
      h("figure", {}, h("img", { src: address("/raw", { path, version: one.version, show: 1 }), alt: `Version ${one.version}` }), h("figcaption", {}, `v${one.version}, ${size(one.size)}`))));
  }
  const areDrawn = Math.max(before.size, after.size) <= ARRAY_BYTES_MAX;
  if (kinds[0] === "array" && kinds[1] === "array" && areDrawn) return arrays(path, before, after);
  return h("p", { class: "note" }, `v${before.version} has ${size(before.size)}, v${after.version} ${size(after.size)}: ${["text", "array"].includes(kinds[0]) && kinds[0] === kinds[1] ? "too long to compare here." : "nothing to compare line by line."}`);
}

const SIGNS = { "+": "added", "-": "taken away" };

function lines(rows) {
  return h(
    "div", { class: "lines", tabindex: "0", role: "region", "aria-label": "Lines" },
    h("table", {}, h("tbody", {}, rows.map(([kind, a, b, text]) =>
      kind === "@"
        ? h("tr", { class: "gap" }, h("td", { colSpan: 4 }, "⋯"))
        : h("tr", { class: kind === "+" ? "come" : kind === "-" ? "gone" : "" }, h("td", { class: "number" }, a || ""), h("td", { class: "number" }, b || ""), h("td", { class: "sign", title: SIGNS[kind] ?? "" }, kind === "-" ? "−" : kind.trim()), h("td", { class: "text" }, text))))),
  );
}

async function arrays(path, before, after) {
  const [a, b] = (await Promise.all([before, after].map((one) => bytes({ path, version: one.version })))).map(parse);
  const panes = [[a, `v${before.version}`], [b, `v${after.version}`]].map(([array, label]) => h("figure", {}, plane(array), h("figcaption", {}, label)));
  if (a.shape.join() !== b.shape.join()) return h("div", { class: "pair" }, panes);
  const values = Float64Array.from(b.values, (value, at) => value - a.values[at]);
  let largest = 0;
  for (const value of values) largest = Math.max(largest, Math.abs(value));
  const change = { ...b, values, dtype: "difference", diverging: true, low: -largest, high: largest };
  return h("div", { class: "pair three" }, panes, h("figure", {}, plane(change), h("figcaption", {}, `change, up to ±${figure(largest)}`)));
}
