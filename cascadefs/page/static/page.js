// The frame of the page: which view an address means, keys, and whether the store answers.

import { h, show, toast } from "./dom.js";
import { ask, decodePath, encodePath, live } from "./store.js";
import { files } from "./files.js";
import { triggers } from "./triggers.js";
import { board } from "./board.js";
import { sweep } from "./sweep.js";

const VIEWS = { files, triggers, store: board, sweep };
const main = document.getElementById("main");
let current = null;

// #/view/path?key=value: all of the page's state is there, so a link shows what one sees.
export function read() {
  const [path, question = ""] = location.hash.slice(1).split("?");
  const [, view = "files", ...rest] = path.split("/");
  const asked = Object.fromEntries(question.split("&").filter(Boolean).map((pair) => pair.split("=").map(decodePath)));
  return { view: Object.hasOwn(VIEWS, view) ? view : "files", path: rest.map(decodePath).join("/"), asked };
}

export function place(view, path, asked = {}) {
  const told = Object.entries(asked).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const question = told.map(([key, value]) => `${key}=${encodePath(String(value))}`).join("&");
  return `#/${view}${path === null ? "" : "/" + path.split("/").map(encodePath).join("/")}${question ? "?" + question : ""}`;
}

export const go = (where, { instead = false } = {}) => (instead ? (history.replaceState(null, "", where), route()) : (location.hash = where));

function route() {
  const state = read();
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.documentElement.dataset.view = state.view;
  if (current?.view !== state.view) {
    current?.ending.abort();
    const ending = new AbortController();
    current = { view: state.view, ending, update: () => {} };
    document.documentElement.classList.remove("past");
    show(main);
    current.update = VIEWS[state.view](main, ending.signal, { go, place });
    document.title = `${state.view} – cascadefs`;
  }
  current.update(state);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input:not([type=range]), select, textarea");
  if (typing) return;
  const view = Object.keys(VIEWS)[Number(event.key) - 1];
  if (view) return go(place(view, view === "files" ? "" : null));
  if (event.key === "?") return document.getElementById("keys").showModal();
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!found || found.disabled) return;
  event.preventDefault();
  if (found.matches("input, ul")) (found.querySelector("[aria-current] , a") ?? found).focus();
  else found.click();
}

const pulse = document.getElementById("pulse");
live.onstate = (state, why) => {
  pulse.dataset.state = state;
  const { versions_per_s, is_more: more } = live.board ?? {};
  const rate = versions_per_s ?? 0;
  const said = { live: `${rate < 10 ? rate.toFixed(1).replace(".0", "") : Math.round(rate)}${more ? "+" : ""} versions/s`, away: "connection lost", trouble: "store away" };
  document.getElementById("pulse-text").textContent = said[state];
  pulse.title = why ?? "";
};

window.addEventListener("hashchange", route);
window.addEventListener("keydown", keys);
// Nobody looks at a page that is hidden: the store is not asked for it.
document.addEventListener("visibilitychange", () => (document.hidden ? live.close() : live.open()));
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") return event.preventDefault();
  if (event.reason?.status) {
    event.preventDefault();
    toast(event.reason.message, "bad");
  }
});

ask("about").then((about) => {
  show(document.getElementById("where"), h("span", { class: "store", title: about.name }, about.name.split("/").at(-1)), h("span", { class: "user" }, `as ${about.user}`));
});
live.open();
route();
