// Bindings and runs: how far they are, and buttons to end what should not go on.

import { h, show, toast } from "./dom.js";
import { live, tell } from "./store.js";
import { count, duration, hourly, milliseconds, plural, size } from "./words.js";

export function triggers(main, signal, { place }) {
  const tiles = h("section", { class: "tiles", "aria-label": "In all" });
  const list = h("section", { class: "bindings", "aria-label": "Bindings" });
  const troubles = h("section", { class: "problems", "aria-label": "Problems" });
  const asking = h("dialog", { "aria-labelledby": "asking" });
  main.append(h("div", { class: "narrow" }, h("h1", {}, "Triggers"), tiles, troubles, list, asking));

  const act = async (command, said) => {
    try {
      const { done } = await tell(command);
      toast(command.do === "kill-all" ? `Told ${plural(done, "run")} to end` : said);
    } catch (error) {
      toast(error.message, "bad");
    }
  };

  const sure = (question, verb, command) => {
    show(
      asking, h("h2", { id: "asking" }, question), h("p", {}, "Their events become dead letters, which can be done again."),
      h("form", { method: "dialog" }, h("button", { class: "button bad", value: "yes", autofocus: true }, verb), h("button", { class: "button quiet", value: "no" }, "Leave them")),
    );
    asking.onclose = () => asking.returnValue === "yes" && act(command, "");
    asking.returnValue = "no";
    asking.showModal();
  };

  const button = (focus, label, kind, act, disabled = false) => h("button", { class: `button ${kind}`, type: "button", "data-focus": focus, onclick: act, disabled }, label);

  function binding(one, runs, cost, now) {
    const id = `${one.base}/${one.name}`;
    const paused = one.state.includes("paused");
    const known = one.pending !== null;
    const command = (word) => ({ do: word, base: one.base, name: one.name });
    const state = one.state.split(",")[0].split(" ")[0];
    const facts = [
      ["lag", known ? duration(one.lag_s) : "–", one.lag_s > 10 ? "bad" : ""], ["waiting", count(one.pending)], ["done", count(one.done)],
      ["failed", count(one.failed), one.failed ? "bad" : ""], ["p50", milliseconds(one.p50_ms)], ["p99", milliseconds(one.p99_ms)],
      ["memory", one.memory_bytes ? size(one.memory_bytes) : "–"], ...(cost ? [[`${cost.currency}/h`, hourly(cost.bindings[id] ?? 0)]] : []),
    ];
    return h(
      "article", { class: "binding", "data-binding": id },
      h("header", {},
        h("div", {}, h("h2", {}, h("span", { class: "base" }, `/${one.base}`), h("span", { class: "mono" }, one.name)), h("p", { class: "watch mono" }, one.watch.join("  "))),
        h("span", { class: `badge ${state}` }, one.state),
      ),
      h("dl", { class: "figures" }, facts.map(([label, value, kind = ""]) => h("div", { class: kind }, h("dt", {}, label), h("dd", {}, value)))),
      one.last_error ? h("p", { class: "error mono" }, one.last_error) : null,
      one.stalled ? h("p", { class: "error" }, `Stalled: ${plural(one.stalled.lost, "version")} it waits for are gone.`) : null,
      runs.length ? h("ul", { class: "runs", "aria-label": "Runs" }, runs.map((run) => h(
        "li", {}, h("span", { class: "spinner", "aria-hidden": "true" }),
        h("a", { class: "mono about", title: run.run, href: run.paths?.length ? place("files", `${one.base}/${run.paths[0]}`.replace(/^\//, "").split("/").slice(0, -1).join("/"), { file: run.paths[0].split("/").at(-1) }) : null }, run.paths?.join(", ") || run.run),
        h("span", { class: "when", title: "Since its event" }, duration((now - run.timestamp) / 1e6)),
        button(`kill ${run.run}`, "Kill", "bad small", () => act({ do: "kill", base: one.base, name: run.run }, "Told it to end")),
      ))) : null,
      h("footer", {},
        paused ? button(`resume ${id}`, "Resume", "", () => act(command("resume"), `${one.name} goes on`)) : button(`pause ${id}`, "Pause", "", () => act(command("pause"), `${one.name} is paused`)),
        button(`all ${id}`, runs.length ? `Kill ${plural(runs.length, "run")}` : "Kill all", "bad", () => sure(`End ${plural(runs.length, "run")} of ${one.name}?`, "Kill all", command("kill-all")), !runs.length),
      ),
    );
  }

  live.listen((board) => {
    const { bindings, running, problems, cost, mode, now, where } = board;
    const sum = (key) => bindings.reduce((total, one) => total + (one[key] ?? 0), 0);
    const lag = Math.max(0, ...bindings.map((one) => one.lag_s ?? 0));
    show(tiles, [["bindings", count(bindings.length)], ["runs under way", count(running.length)], ["waiting", count(sum("pending"))], ["longest lag", duration(lag)], ["done", count(sum("done"))], ["failed", count(sum("failed"))]].map(([label, value]) => h("div", { class: "tile" }, h("b", {}, value), h("span", {}, label))));
    show(troubles, problems.map((one) => h("p", { class: "error" }, h("b", {}, `/${one.base}: ${one.script} is not active. `), one.message)));
    const key = (one) => `${one.base}/${one.binding ?? one.name}`;
    show(list, bindings.length
      ? bindings.map((one) => binding(one, running.filter((run) => key(run) === key(one)), cost, now))
      : h("p", { class: "empty" }, mode === "off" ? "Scripts do not run on this mount: mount it with --triggers=owner." : where ? `Scripts run ${where}.` : "No scripts yet: put one into DIRECTORY/.cascade/watch/."));
  }, signal);
  return () => {};
}
