// Elements without markup in strings: nothing that a file is called or holds is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, it] of Object.entries(value)) element.style.setProperty(key, it);
    else if (name in element && typeof value !== "string" && element.namespaceURI !== SVG) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
export const svg = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

// Put a new tree in place of what an element holds; the focus stays where it was, if something there has the same data-focus.
export function show(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (focused !== undefined) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

export function toast(text, kind = "") {
  const one = h("p", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(one);
  setTimeout(() => one.remove(), 6000);
}

const PATHS = {
  folder: "M2.5 5.5a1.5 1.5 0 0 1 1.5-1.5h3.2l1.6 2H16a1.5 1.5 0 0 1 1.5 1.5v7A1.5 1.5 0 0 1 16 16H4a1.5 1.5 0 0 1-1.5-1.5z",
  file: "M5 2.5h6.2L15.5 7v9A1.5 1.5 0 0 1 14 17.5H5.5A1.5 1.5 0 0 1 4 16V3.500A1 1 0 0 1 5 2.500zM11 2.500V7h4.500",
  up: "M10 15.500V5M5.500 9.500 10 5l4.500 4.500",
  down: "M10 3.500V12M6 8.500l4 4 4-4M4 16.500h12",
  earlier: "M12.500 4.500 7 10l5.500 5.500",
  later: "M7.500 4.500 13 10l-5.500 5.500",
};

export const icon = (name) =>
  svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true" }, svg("path", { d: PATHS[name] }));
