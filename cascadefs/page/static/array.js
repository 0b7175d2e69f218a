// Arrays of NumPy (.npy, versions 1 to 3), read and drawn here: the server sends bytes and runs no code of theirs.

import { h, show, svg } from "./dom.js";
import { figure, size } from "./words.js";

export const ARRAY_BYTES_MAX = 16 * 1024 * 1024;

const READERS = {
  f4: [4, "getFloat32"], f8: [8, "getFloat64"], i1: [1, "getInt8"], i2: [2, "getInt16"], i4: [4, "getInt32"], i8: [8, "getBigInt64"],
  u1: [1, "getUint8"], u2: [2, "getUint16"], u4: [4, "getUint32"], u8: [8, "getBigUint64"], b1: [1, "getUint8"], f2: [2, null],
};

export function parse(buffer) {
  if (buffer.byteLength < 12) return { shape: [], dtype: "cut off", bytes: buffer.byteLength, values: new Float64Array(0), unreadable: true };
  const view = new DataView(buffer);
  const short = view.getUint8(6) === 1;
  const start = short ? 10 : 12;
  const length = short ? view.getUint16(8, true) : view.getUint32(8, true);
  const head = new TextDecoder("latin1").decode(new Uint8Array(buffer).subarray(start, start + length));
  const descr = /'descr':\s*'([<>|=])([a-z])(\d+)'/.exec(head);
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(head)?.[1] ?? "").split(",").map((one) => one.trim()).filter(Boolean).map(Number);
  const fortran = /'fortran_order':\s*True/.test(head);
  const reader = descr && READERS[descr[2] + descr[3]];
  const total = shape.reduce((a, b) => a * b, 1);
  const array = { shape, dtype: descr ? named(descr[2], descr[3]) : "objects", bytes: buffer.byteLength, values: new Float64Array(0) };
  if (!reader || start + length + total * reader[0] > buffer.byteLength) return { ...array, unreadable: true };
  const little = descr[1] !== ">";
  const [width, method] = reader;
  const raw = new Float64Array(total);
  const offset = start + length;
  for (let at = 0; at < total; at += 1) {
    const where = offset + at * width;
    raw[at] = method === null ? half(view.getUint16(where, little)) : Number(view[method](where, little));
  }
  const values = fortran && shape.length > 1 ? rowMajor(raw, shape) : raw;
  let low = Infinity, high = -Infinity, sum = 0, counted = 0;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
    sum += value;
    counted += 1;
  }
  return { ...array, values, low, high, mean: counted ? sum / counted : NaN, odd: total - counted };
}

const NAMES = { f: "float", i: "int", u: "uint", b: "bool" };
const named = (kind, bytes) => (kind === "b" ? "bool" : `${NAMES[kind] ?? kind}${bytes * 8}`);

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function rowMajor(raw, shape) {
  const found = new Float64Array(raw.length);
  const index = new Array(shape.length).fill(0);
  for (let at = 0; at < raw.length; at += 1) {
    let place = 0;
    for (let axis = shape.length - 1; axis >= 0; axis -= 1) place = place * shape[axis] + index[axis];
    found[at] = raw[place];
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis -= 1) index[axis] = 0;
  }
  return found;
}

// Colours: a perceptual ramp (after viridis, by van der Walt and Smith), and one with white in the middle for differences.
const RAMP = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const DIVERGING = [[33, 82, 156], [90, 150, 205], [175, 208, 230], [246, 246, 244], [244, 190, 165], [214, 105, 80], [160, 28, 40]];

function colour(ramp, part) {
  const place = Math.max(0, Math.min(1, part)) * (ramp.length - 1);
  const at = Math.min(ramp.length - 2, Math.floor(place));
  return ramp[at].map((value, channel) => value + (ramp[at + 1][channel] - value) * (place - at));
}

const isColour = ({ shape, dtype }) => shape.length === 3 && (shape[2] === 3 || shape[2] === 4) && dtype === "uint8";

// A picture of an array: numbers as a line, a plane as colours.
export function plane(array, index = 0) {
  const { shape, values } = array;
  if (array.unreadable) return h("p", { class: "note" }, "Numbers of a kind that is not drawn here.");
  if (!values.length) return h("p", { class: "note" }, "An array of no numbers.");
  if (shape.length === 0) return h("p", { class: "scalar" }, figure(values[0]));
  if (shape.length === 1) return line(array);
  const coloured = isColour(array);
  const [rows, columns] = coloured ? shape : shape.slice(-2);
  const canvas = h("canvas", { width: columns, height: rows, role: "img", "aria-label": `Array of ${shape.join(" by ")}, from ${figure(array.low)} to ${figure(array.high)}` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const span = array.high - array.low || 1;
  for (let at = 0; at < rows * columns; at += 1) {
    const pixel = coloured
      ? [0, 1, 2].map((channel) => values[at * shape[2] + channel])
      : colour(array.diverging ? DIVERGING : RAMP, (values[index * rows * columns + at] - array.low) / span);
    image.data.set([...pixel, 255], at * 4);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function line({ values, low, high, shape }) {
  const steps = Math.min(values.length, 600);
  const span = high - low || 1;
  const points = [];
  for (let at = 0; at < steps; at += 1) {
    const value = values[Math.floor((at * (values.length - 1)) / Math.max(1, steps - 1))];
    points.push(`${((at * 600) / Math.max(1, steps - 1)).toFixed(1)},${(150 - ((value - low) / span) * 140).toFixed(1)}`);
  }
  return svg("svg", { class: "curve", viewBox: "0 0 600 160", role: "img", "aria-label": `${shape[0]} numbers from ${figure(low)} to ${figure(high)}` }, svg("polyline", { points: points.join(" ") }));
}

export function card(array) {
  const facts = [["shape", array.shape.length ? array.shape.join(" × ") : "scalar"], ["type", array.dtype], ["size", size(array.bytes)]];
  if (!array.unreadable && array.values.length) facts.push(["least", figure(array.low)], ["mean", figure(array.mean)], ["greatest", figure(array.high)]);
  if (array.odd) facts.push(["not finite", String(array.odd)]);
  const frame = h("div", { class: "frame" });
  const planes = array.shape.length > 2 && !isColour(array) ? array.shape.slice(0, -2).reduce((a, b) => a * b, 1) : 1;
  const paint = (index) => show(frame, plane(array, index));
  paint(0);
  const chosen = h("output", {}, `1 of ${planes}`);
  const slider = planes > 1 && !array.unreadable
    ? h("label", { class: "planes" }, "Plane", h("input", { type: "range", min: "0", max: String(planes - 1), value: "0", oninput: (event) => { paint(Number(event.target.value)); chosen.textContent = `${Number(event.target.value) + 1} of ${planes}`; } }), chosen)
    : null;
  const scale = array.shape.length > 1 && !isColour(array) && !array.unreadable ? legend(array) : null;
  return h("div", { class: "array" }, h("div", { class: "drawn" }, frame, scale, slider), h("dl", { class: "figures" }, facts.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value)))));
}

function legend({ low, high }) {
  const stops = RAMP.map((rgb, at) => svg("stop", { offset: `${(at * 100) / (RAMP.length - 1)}%`, "stop-color": `rgb(${rgb.join()})` }));
  return h("div", { class: "legend" }, h("span", {}, figure(low)), svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("defs", {}, svg("linearGradient", { id: "ramp" }, stops)), svg("rect", { width: 100, height: 6, rx: 1, fill: "url(#ramp)" })), h("span", {}, figure(high)));
}
