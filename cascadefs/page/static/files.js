// The files of a store at any time: a directory, and beside it a file of it.

import { h, icon, show } from "./dom.js";
import { FilePanel } from "./file.js";
import { ask, live } from "./store.js";
import { TimeBar } from "./time.js";
import { ago, clock, grouped, name, plural, size } from "./words.js";

export function files(main, signal, { go, place }) {
  let state = { path: "", at: null, file: null, tab: "content", compare: null };
  let entries = [];
  let after = null; // Where the names that are not here begin.
  let pages = 1;
  let before = new Map();
  let moments = null;
  let asked = null;
  let stale = 0;

  const address = (changes) => {
    const next = { ...state, ...changes };
    return place("files", next.path, {
      at: next.at, file: next.file,
      tab: next.file && next.tab !== "content" ? next.tab : null, with: next.file && next.tab === "difference" ? next.compare : null,
    });
  };
  const turn = (changes, how) => go(address(changes), how);
  const bar = new TimeBar((at, how) => turn({ at }, how));
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Directory" });
  const list = h("ul", { class: "entries", "data-key": "l", onkeydown: walk });
  const note = h("p", { class: "note", role: "status" });
  const further = h("button", { class: "button further", type: "button", hidden: true, onclick: more }, "More names");
  const panel = new FilePanel(turn, address);
  const beside = h("section", { class: "beside", "aria-label": "File" });
  const tree = h("section", { class: "tree", "aria-label": "Files" }, crumbs, list, note, further);
  main.append(bar.element, h("div", { class: "files" }, tree, beside));

  function walk(event) {
    const links = [...list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const steps = { ArrowDown: 1, ArrowUp: -1, Home: -links.length, End: links.length };
    if (event.key in steps) {
      event.preventDefault();
      links[Math.max(0, Math.min(links.length - 1, at + steps[event.key]))]?.focus();
    } else if (event.key === "Backspace" && state.path) {
      event.preventDefault();
      turn({ path: state.path.slice(0, Math.max(0, state.path.lastIndexOf("/"))), file: null });
    }
  }

  function paintCrumbs() {
    const parts = state.path ? state.path.split("/") : [];
    const links = [h("a", { href: address({ path: "", file: null }) }, "/")];
    parts.forEach((part, at) => {
      const path = parts.slice(0, at + 1).join("/");
      const properties = at === parts.length - 1 ? { "aria-current": "true" } : {};
      links.push(h("a", { href: address({ path, file: null }), ...properties }, part));
      if (at < parts.length - 1) links.push(h("span", { "aria-hidden": "true" }, "/"));
    });
    show(crumbs, links);
  }

  function row(entry) {
    const full = state.path ? `${state.path}/${entry.name}` : entry.name;
    const where = entry.is_directory ? address({ path: full, file: null }) : address({ file: entry.name, compare: null });
    const old = before.get(entry.name);
    const moved = before.size > 0 && (old === undefined || old !== entry.version) && !entry.is_directory;
    const now = moments?.now ?? entry.timestamp;
    return h(
      "li", { class: `${entry.is_directory ? "directory" : "plain"}${moved ? " moved" : ""}` },
      h(
        "a", { href: where, "data-focus": entry.name, "aria-current": entry.name === state.file ? "true" : null },
        icon(entry.is_directory ? "folder" : "file"),
        h("span", { class: "name" }, entry.name),
        entry.version ? h("span", { class: "version" }, `v${entry.version}`) : null,
        h("span", { class: "size" }, entry.is_directory ? "" : size(entry.size)),
        h("span", { class: "when", title: entry.timestamp ? `${clock(entry.timestamp)}` : "" }, entry.timestamp && !entry.is_directory ? ago(entry.timestamp, state.at ?? now) : ""),
      ),
    );
  }

  function paintEntries() {
    const shown = [...entries].sort((one, other) => other.is_directory - one.is_directory); // Else as they came.
    show(list, shown.map(row));
    further.hidden = after === null;
    note.textContent = after !== null ? `The first ${plural(entries.length, "name")}; there are more.` : entries.length ? "" : state.at === null ? "Nothing is here." : "Nothing was here then.";
    before = new Map(entries.map((entry) => [entry.name, entry.version]));
  }

  // A directory's names come in parts; `asked` is the question of which this is a part.
  async function names(count, from, mine) {
    const found = { entries: [], after: from };
    do {
      const part = await ask("tree", { path: state.path, at: state.at ?? undefined, after: found.after }, mine.signal);
      found.entries.push(...part.entries);
      found.after = part.after;
    } while (found.after !== null && --count > 0);
    return found;
  }

  async function more() {
    const mine = asked;
    try {
      const found = await names(1, after, mine);
      if (mine !== asked) return;
      entries = [...entries, ...found.entries];
      after = found.after;
      pages += 1;
      paintEntries();
      list.querySelector(`[data-focus="${CSS.escape(found.entries[0]?.name ?? "")}"]`)?.focus();
    } catch (error) {
      if (error.name !== "AbortError" && mine === asked) note.textContent = error.message;
    }
  }

  function paintBeside() {
    const entry = entries.find((one) => one.name === state.file);
    document.documentElement.classList.toggle("reading-file", Boolean(state.file));
    if (!state.file) {
      panel.leave();
      show(beside, recent());
      return;
    }
    const opened = !beside.contains(panel.element);
    show(beside, panel.element);
    // Where only one of the two has room, the list is gone, and the focus with it.
    if (opened && getComputedStyle(tree).display === "none") panel.title.focus();
    const full = state.path ? `${state.path}/${state.file}` : state.file;
    panel.open({ ...state, full, entry });
  }

  function recent() {
    const latest = grouped(live.board?.latest ?? []);
    const now = live.board?.now ?? 0;
    return h(
      "div", { class: "recent" },
      h("h2", {}, "Latest changes"),
      latest.length
        ? h("ol", {}, latest.slice(0, 14).map((one) => h(
            "li", { class: one.kind },
            h("a", { "data-focus": `${one.path}@${one.version}`, href: address({ path: one.path.slice(0, Math.max(0, one.path.lastIndexOf("/"))), file: name(one.path), at: one.timestamp, tab: "content" }) },
              h("span", { class: "name" }, one.path),
              h("span", { class: "times" }, one.times > 1 ? `${one.times} changes` : ""),
              h("span", { class: "version" }, one.kind === "delete" ? "deleted" : `v${one.version}`),
              h("span", { class: "when" }, ago(one.timestamp, now)),
            ),
          )))
        : h("p", { class: "note" }, "Nothing has changed yet. What happens shows up here as it does."),
    );
  }

  // Ask once for all that is between two frames; what a newer question has overtaken is dropped.
  async function load() {
    asked?.abort();
    const mine = (asked = new AbortController());
    const path = state.path;
    const at = state.at ?? undefined;
    const ruler = state.file ? `${path ? path + "/" : ""}${state.file}` : path;
    try {
      const [found, when] = await Promise.all([names(pages, null, mine), ask("moments", { path: ruler, at }, mine.signal)]);
      if (mine !== asked) return;
      ({ entries, after } = found);
      moments = when;
      bar.know(when);
      paintEntries();
    } catch (error) {
      if (error.name === "AbortError" || mine !== asked) return;
      entries = [];
      after = null;
      further.hidden = true;
      before = new Map();
      show(list);
      note.textContent = error.status === 404 ? (state.at === null ? "There is no such directory." : "This directory was not there then.") : error.message;
      const when = await ask("moments", { path: "", at }, mine.signal).catch(() => null);
      if (when && mine === asked) bar.know((moments = when));
    }
    paintBeside();
  }

  live.listen((news) => {
    if (!state.file) paintBeside();
    if (state.at !== null) return;
    const below = state.path ? `${state.path}/` : "";
    const newest = Math.max(0, ...news.latest.filter((one) => one.path.startsWith(below)).map((one) => one.timestamp));
    if (newest > stale) {
      stale = newest;
      load();
    } else if (moments) {
      moments = { ...moments, now: news.now };
      bar.know(moments);
    }
  }, signal);
  signal.addEventListener("abort", () => document.documentElement.classList.remove("reading-file", "past"));

  return ({ path, asked: told }) => {
    const next = {
      path: path.replace(/\/+$/, ""),
      at: told.at ? Number(told.at) : null,
      file: told.file ?? null,
      tab: ["difference", "origin"].includes(told.tab) ? told.tab : "content",
      compare: told.with ? Number(told.with) : null,
    };
    if (next.path !== state.path) [before, pages] = [new Map(), 1];
    state = next;
    bar.set(state.at);
    paintCrumbs();
    load();
  };
}
