// A sweep: the best and the worst lines of a directory whose NAME/loss files are being written.

import { curves } from "./chart.js";
import { h, show, toast } from "./dom.js";
import { live, tell } from "./store.js";
import { ago, plural } from "./words.js";

export function sweep(main, signal, { go, place }) {
  let directory = null;
  const field = h("input", { id: "directory", type: "text", value: "sweep", spellcheck: "false", autocomplete: "off" });
  const form = h("form", { class: "choose", onsubmit: (event) => { event.preventDefault(); go(place("sweep", null, { in: field.value.replace(/^\/+|\/+$/g, "") })); } }, h("label", { for: "directory" }, "Directory"), field, h("button", { class: "button" }, "Show"));
  const picture = h("section", { class: "card", "aria-label": "Curves" });
  const lists = h("div", { class: "ranks" });
  const note = h("p", { class: "note", role: "status" });
  main.append(h("div", { class: "narrow" }, h("h1", {}, "Sweep"), form, note, picture, lists));

  const kill = async (run) => {
    try {
      await tell({ do: "kill", base: run.base, name: run.run });
      toast("Told it to end");
    } catch (error) {
      toast(error.message, "bad");
    }
  };

  const rank = (title, kind, lines, now, running) => h(
    "section", { class: `card rank ${kind}`, "aria-label": title }, h("h2", {}, title),
    h("ol", {}, lines.map((line) => h("li", {},
      h("a", { href: place("files", `${directory}/${line.name}`, { file: "loss" }), "data-focus": line.path }, h("b", {}, line.name)),
      running.has(line.name) ? h("button", { class: "button bad small", type: "button", "data-focus": `kill ${line.path}`, onclick: () => kill(running.get(line.name)) }, "Kill") : h("span", {}),
      h("span", { class: "loss" }, line.loss.toPrecision(4)), h("span", { class: "when" }, ago(line.timestamp, now)),
    ))),
  );

  live.listen(({ sweep: told, now, running }) => {
    if (!told || told.directory !== directory) return;
    if (told.error) {
      note.textContent = `${directory}: ${told.error}`;
      show(picture);
      show(lists);
      picture.hidden = true;
      return;
    }
    const busy = new Map(running.flatMap((run) => (run.paths ?? []).map((path) => [path.split("/").at(-1).replace(/\.[a-z]+$/, ""), run])));
    note.textContent = told.lines ? `${plural(told.lines, "line")}${told.left_out ? `, ${told.left_out} more not looked at` : ""}; the lower the loss, the better.` : `No ${directory}/*/loss holds a number yet.`;
    const chart = curves([...told.worst.map((line) => ({ name: line.name, kind: "worst", values: line.curve })), ...told.best.map((line) => ({ name: line.name, kind: "best", values: line.curve }))], { width: Math.max(280, main.clientWidth - 96) });
    picture.hidden = !chart;
    show(picture, chart ? [h("h2", {}, "Loss by version"), chart] : []);
    show(lists, told.best.length ? rank("Best five", "best", told.best, now, busy) : null, told.worst.length ? rank("Worst five", "worst", told.worst, now, busy) : null);
  }, signal);
  signal.addEventListener("abort", () => live.open(""));

  return ({ asked }) => {
    directory = asked.in ?? "sweep";
    field.value = directory;
    note.textContent = "Looking …";
    picture.hidden = true;
    live.open(directory);
  };
}
