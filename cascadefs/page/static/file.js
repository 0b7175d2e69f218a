// One file: its versions, and of the one at the chosen instant its content, how it differs from another, and where it comes from.

import { h, icon, show } from "./dom.js";
import { difference } from "./difference.js";
import { origin } from "./origin.js";
import { content } from "./preview.js";
import { address as urlOf, ask } from "./store.js";
import { clock, count, date, name, size } from "./words.js";

const TABS = { content: "Content", difference: "Difference", origin: "Origin" };

// What is asked for one thing, until another is wanted; `begin` answers null where that is what is wanted already.
class Turn {
  #key = null;
  #ending = new AbortController();

  begin(...key) {
    const text = JSON.stringify(key);
    if (text === this.#key) return null;
    this.end();
    this.#key = text;
    this.#ending = new AbortController();
    return this.#ending.signal;
  }

  end() {
    this.#key = null;
    this.#ending.abort();
  }
}

export class FilePanel {
  #head = new Turn();
  #shown = new Turn();

  constructor(turn, address) {
    this.turn = turn;
    this.address = address;
    this.title = h("h2", { class: "title", tabindex: "-1" });
    this.facts = h("p", { class: "facts" });
    this.download = h("a", { class: "button", download: "" }, icon("down"), "Download");
    this.back = h("a", { class: "button quiet back" }, icon("earlier"), "Files");
    this.versions = h("ol", { class: "versions", "aria-label": "Versions" });
    this.tabs = h("nav", { class: "tabs", "aria-label": "Of this version" });
    this.body = h("div", { class: "body" });
    this.element = h("article", { class: "file" }, h("header", {}, this.back, h("div", { class: "head" }, this.title, this.facts), this.download), this.versions, this.tabs, this.body);
  }

  leave() {
    this.#head.end();
    this.#shown.end();
  }

  open({ full, at, entry, tab, compare }) {
    const number = entry?.version ?? 0;
    const head = this.#head.begin(full, number, at, tab);
    if (head) {
      this.#paintHead(full, at, entry, tab);
      this.#list(full, number, at, tab, head);
    }
    const shown = this.#shown.begin(full, number, tab, compare);
    if (shown) this.#show(full, number, at, tab, compare, shown);
  }

  async #list(full, number, at, tab, signal) {
    const found = await ask("versions", { path: full, at: at ?? undefined }, signal).catch(() => ({ versions: [] }));
    if (!signal.aborted) this.#paintVersions(found.versions, number, tab);
  }

  async #show(full, number, at, tab, compare, signal) {
    if (!number) {
      this.body.removeAttribute("aria-busy");
      show(this.body, h("p", { class: "note" }, at === null ? "There is no such file now." : "This file was not there then."));
      return;
    }
    this.body.setAttribute("aria-busy", "true");
    const found = await this.#body(tab, full, number, compare, signal).catch((error) => h("p", { class: "note bad" }, error.message));
    if (signal.aborted) return;
    this.body.removeAttribute("aria-busy");
    show(this.body, found);
  }

  #body(tab, path, number, compare, signal) {
    if (tab === "difference") return difference(path, number, compare, (other) => this.turn({ compare: other }), signal);
    if (tab === "origin") return origin(path, number, (where) => this.address(where), signal);
    return content(path, number, signal);
  }

  #paintHead(full, at, entry, tab) {
    this.element.dataset.tab = tab;
    show(this.title, name(full));
    show(this.facts, entry?.version ? [h("span", { class: "version" }, `v${entry.version}`), h("span", {}, size(entry.size)), h("span", {}, `${date(entry.timestamp)}, ${clock(entry.timestamp)}`)] : h("span", {}, "not there"));
    this.download.hidden = !entry?.version;
    if (entry?.version) this.download.setAttribute("href", urlOf("/raw", { path: full, version: entry.version }));
    this.back.setAttribute("href", this.address({ file: null }));
    show(
      this.tabs,
      Object.entries(TABS).map(([key, label]) =>
        h("a", {
          href: this.address({ tab: key }), "data-focus": key, "data-key": key[0], "aria-current": key === tab ? "page" : null,
        }, label),
      ),
    );
  }

  #paintVersions(versions, number, tab) {
    let chosen = null;
    const newest = versions.at(-1)?.version ?? 0;
    show(
      this.versions,
      versions.map((one) => {
        const is = one.version === number;
        const link = h(
          "a", {
            href: this.address({ at: one.version === newest ? null : one.timestamp, tab, compare: null }), "data-focus": `v${one.version}`, "aria-current": is ? "true" : null,
            class: one.version > number ? "later" : null, title: `${date(one.timestamp)}, ${clock(one.timestamp)}, ${size(one.size)}`,
          },
          h("b", {}, `v${one.version}`), h("span", {}, clock(one.timestamp)),
        );
        const item = h("li", {}, link);
        if (is) chosen = item;
        return item;
      }),
    );
    this.versions.hidden = versions.length === 0;
    this.versions.setAttribute("aria-label", `${count(versions.length)} versions`);
    if (chosen) this.versions.scrollLeft = chosen.offsetLeft - this.versions.clientWidth / 2;
  }
}
