// Small curves of figures.

import { svg } from "./dom.js";

export function spark(values, { width = 240, height = 48, least = 0 } = {}) {
  const top = Math.max(least, 1.2 * Math.max(...values), 1e-9);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(height - 2 - (value / top) * (height - 6)).toFixed(1)}`);
  if (points.length < 2) return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  return svg(
    "svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}` }), svg("polyline", { points: points.join(" ") }),
  );
}

// Several curves over the same axes; each has a class and a name. The longest sets the length.
export function curves(lines, { width = 900, height = Math.min(300, 140 + width / 7) } = {}) {
  const values = lines.flatMap((line) => line.values);
  if (!values.length) return null;
  const low = Math.min(...values);
  const high = Math.max(...values);
  const span = high - low || 1;
  const longest = Math.max(2, ...lines.map((line) => line.values.length));
  const x = (at) => 44 + (at * (width - 56)) / (longest - 1);
  const y = (value) => height - 22 - ((value - low) / span) * (height - 36);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => low + part * span);
  return svg(
    "svg", { class: "curves", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Curves of ${lines.length} lines, from ${low} to ${high}` },
    ticks.map((value) => [svg("line", { class: "rule", x1: 44, x2: width - 12, y1: y(value), y2: y(value) }), svg("text", { x: 38, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3))]),
    svg("text", { x: width - 12, y: height - 4, "text-anchor": "end" }, `${longest} versions`),
    lines.map((line) => [
      svg("polyline", { class: line.kind, points: line.values.map((value, at) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }, svg("title", {}, line.name)),
      svg("circle", { class: line.kind, cx: x(line.values.length - 1), cy: y(line.values.at(-1)), r: 3 }),
    ]),
  );
}
