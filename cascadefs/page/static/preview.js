// What a version holds, shown as what it is: text, a picture, an array, or bytes.

import { h } from "./dom.js";
import { ARRAY_BYTES_MAX, card, parse } from "./array.js";
import { address, ask, bytes } from "./store.js";
import { size } from "./words.js";

export async function content(path, version, signal) {
  const found = await ask("file", { path, version }, signal);
  if (found.kind === "text") return text(found);
  if (found.kind === "image") {
    return h("figure", { class: "picture" }, h("img", { src: address("/raw", { path, version, show: 1 }), alt: `Version ${version} of ${path}` }));
  }
  if (found.kind === "array") {
    if (found.size > ARRAY_BYTES_MAX) return h("p", { class: "note" }, `An array of ${size(found.size)}: too long to be drawn here.`);
    return card(parse(await bytes({ path, version })));
  }
  return dump(found);
}

function text(found) {
  if (!found.size) return h("p", { class: "note" }, "Empty.");
  const rows = found.text.replace(/\n$/, "").split("\n");
  return h(
    "div", { class: "text", tabindex: "0", role: "region", "aria-label": "Text" },
    h("pre", { class: "numbers", "aria-hidden": "true" }, rows.map((_, at) => at + 1).join("\n")),
    h("pre", { class: "written" }, rows.join("\n")),
    found.is_whole ? null : h("p", { class: "note" }, `The first ${size(256 * 1024)} of ${size(found.size)}.`),
  );
}

function dump(found) {
  const pairs = found.head.match(/../g) ?? [];
  const rows = [];
  for (let at = 0; at < pairs.length; at += 16) {
    const row = pairs.slice(at, at + 16);
    const letters = row.map((pair) => {
      const code = parseInt(pair, 16);
      return code >= 32 && code < 127 ? String.fromCharCode(code) : "·";
    });
    rows.push(`${at.toString(16).padStart(6, "0")}  ${row.join(" ").padEnd(47)}  ${letters.join("")}`);
  }
  return h("div", { class: "text", tabindex: "0", role: "region", "aria-label": "Bytes" }, h("pre", { class: "written" }, rows.join("\n")), h("p", { class: "note" }, `The first ${pairs.length} of ${size(found.size)}.`));
}
