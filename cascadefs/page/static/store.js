// What the page asks the store: questions, commands, and the stream of what happens.

// Bytes that are no UTF-8 stand in names as lone surrogates, as Python has them; in an address they are those bytes.
const LONE = /[\udc80-\udcff]/u;
export const encodePath = (path) =>
  [...path].map((one) => (LONE.test(one) ? "%" + (one.charCodeAt(0) - 0xdc00).toString(16) : encodeURIComponent(one))).join("");

export function decodePath(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text.replace(/%([89a-f][0-9a-f])/gi, (_, hex) => String.fromCharCode(0xdc00 + parseInt(hex, 16))).replace(/%([0-7][0-9a-f])/gi, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
  }
}

export function address(path, asked = {}) {
  const pairs = Object.entries(asked).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return path + (pairs.length ? "?" + pairs.map(([key, value]) => `${key}=${encodePath(String(value))}`).join("&") : "");
}

export class Failed extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function answered(response) {
  if (response.ok) return response.json();
  const told = await response.json().catch(() => ({ error: response.statusText }));
  throw new Failed(told.error, response.status);
}

// Past the browser's cache: there, a question waits for an equal one before it, and for many seconds if that one was given up.
export const ask = async (question, asked, signal) => answered(await fetch(address(`/api/${question}`, asked), { signal, cache: "no-store" }));

export const tell = async (command) =>
  answered(
    await fetch("/api/command", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Cascadefs": "1" },
      body: JSON.stringify(command),
    }),
  );

export async function bytes(asked) {
  const response = await fetch(address("/raw", asked), { cache: "no-store" });
  if (!response.ok) await answered(response);
  return response.arrayBuffer();
}

// One stream for the whole page. Whoever listens is told the newest board at once, and then each new one.
class Live {
  board = null;
  #listeners = new Set();
  #source = null;
  #sweep = "";
  onstate = () => {};

  open(sweep = this.#sweep) {
    if (this.#source && sweep === this.#sweep && this.#source.readyState !== EventSource.CLOSED) return;
    this.#source?.close();
    this.#sweep = sweep;
    this.#source = new EventSource(address("/api/live", { sweep }));
    this.#source.onmessage = (message) => {
      const board = JSON.parse(message.data);
      if (board.error) return this.onstate("trouble", board.error);
      this.board = board;
      this.onstate("live");
      for (const listener of this.#listeners) listener(board);
    };
    this.#source.onerror = () => this.onstate("away");
  }

  close() {
    this.#source?.close();
    this.#source = null;
  }

  listen(listener, signal) {
    this.#listeners.add(listener);
    signal.addEventListener("abort", () => this.#listeners.delete(listener));
    if (this.board) listener(this.board);
  }
}

export const live = new Live();
