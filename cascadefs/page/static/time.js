// The time slider: one instant for all of the page, or now.

import { h, icon, show, svg } from "./dom.js";
import { ago, clock, date, fine } from "./words.js";

const STEPS = 2000;

export class TimeBar {
  #at = null;
  #moments = null;

  // `chosen` is told the instant, or null for now.
  constructor(chosen) {
    this.chosen = chosen;
    this.date = h("span", { class: "date" });
    this.clock = h("span", { class: "clock" });
    this.ago = h("span", { class: "ago" });
    this.picture = svg("svg", { class: "histogram", preserveAspectRatio: "none", viewBox: "0 0 144 24", "aria-hidden": "true" });
    this.range = h("input", {
      type: "range", min: "0", max: String(STEPS), step: "1", value: String(STEPS), "aria-label": "Time", "data-key": "t", id: "time",
      oninput: () => this.#slid(),
    });
    this.start = h("span", {});
    this.end = h("span", {}, "now");
    const button = (key, label, what, act) => h("button", { class: "button quiet", type: "button", "data-key": key, title: `${label} (${key})`, "aria-label": label, onclick: act }, what);
    this.earlier = button("[", "The change before", icon("earlier"), () => this.#jump("before"));
    this.later = button("]", "The change after", icon("later"), () => this.#jump("after"));
    this.now = button("n", "Back to now", "Now", () => this.chosen(null));
    this.element = h(
      "section", { class: "time", "aria-label": "Time" },
      h("div", { class: "reading" }, h("output", { for: "time" }, this.clock, this.date), this.ago),
      h("div", { class: "track" }, this.picture, this.range, h("div", { class: "ends", "aria-hidden": "true" }, this.start, this.end)),
      h("div", { class: "jumps" }, this.earlier, this.later, this.now),
    );
  }

  set(at) {
    this.#at = at;
    this.#paint();
  }

  // What the store says of when something changed; the slider's ends come from it.
  know(moments) {
    this.#moments = moments;
    this.#paint();
  }

  #instant(step) {
    const { first, now } = this.#moments;
    return step >= STEPS ? null : Math.round(first + ((now - first) * step) / STEPS);
  }

  #slid() {
    if (!this.#moments) return;
    this.#at = this.#instant(Number(this.range.value));
    this.#paint({ sliding: true });
    this.chosen(this.#at, { instead: true });
  }

  // The changes before and after what is shown. What the last one made is what there is now.
  #near() {
    const changes = this.#moments?.near ?? [];
    const shown = this.#at ?? changes.at(-1) ?? 0;
    return { before: changes.filter((one) => one < shown).at(-1) ?? null, after: changes.find((one) => one > shown) ?? null, last: changes.at(-1) };
  }

  #jump(where) {
    const { [where]: found, last } = this.#near();
    if (found === null && where === "before") return;
    this.#at = found === last && this.#moments.is_last ? null : found;
    this.#paint();
    this.chosen(this.#at);
  }

  #paint({ sliding = false } = {}) {
    const moments = this.#moments;
    if (!moments) return;
    const past = this.#at !== null;
    const shown = past ? this.#at : moments.now;
    document.documentElement.classList.toggle("past", past);
    this.clock.textContent = past ? fine(shown) : clock(shown);
    this.date.textContent = date(shown);
    this.ago.textContent = past ? ago(shown, moments.now) : "now";
    const length = Math.max(1, moments.now - moments.first);
    const step = past ? Math.round(((shown - moments.first) * STEPS) / length) : STEPS;
    if (!sliding) this.range.value = String(Math.max(0, Math.min(past ? STEPS - 1 : STEPS, step)));
    this.range.setAttribute("aria-valuetext", past ? `${date(shown)} ${clock(shown)}` : "now");
    this.range.style.setProperty("--done", `${(Number(this.range.value) / STEPS) * 100}%`);
    this.start.textContent = `${date(moments.first)}, ${clock(moments.first)}`;
    this.earlier.disabled = this.#near().before === null;
    this.later.disabled = !past;
    this.now.disabled = !past;
    const highest = Math.max(1, ...moments.counts);
    show(
      this.picture,
      moments.counts.map((number, at) => {
        if (!number) return null;
        const height = 3 + 21 * (Math.log1p(number) / Math.log1p(highest));
        const passed = moments.first + ((at + 0.5) * length) / moments.counts.length <= shown;
        return svg("rect", { class: passed ? "passed" : "", x: at + 0.1, y: 24 - height, width: 0.8, height });
      }),
    );
  }
}
