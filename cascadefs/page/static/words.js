// Figures for people.

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${at === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${units[at]}`;
}

export const count = (number) => (number === null || number === undefined ? "–" : number.toLocaleString("en"));

const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const date = (timestamp) => DATE.format(timestamp / 1000);
export const clock = (timestamp) => CLOCK.format(timestamp / 1000);
export const fine = (timestamp) => `${clock(timestamp)}.${String(Math.floor(timestamp / 1000) % 1000).padStart(3, "0")}`;

export function duration(seconds) {
  if (seconds < 0.001) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function ago(timestamp, now) {
  const seconds = (now - timestamp) / 1e6;
  return seconds < 1 ? "just now" : `${duration(seconds)} ago`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 ms";
  return value < 10 ? `${value.toFixed(1)} ms` : value < 10000 ? `${Math.round(value)} ms` : duration(value / 1000);
}

// What something costs in an hour, given what it costs in a second.
export function hourly(value) {
  const hour = value * 3600;
  if (hour > 0 && hour < 0.0005) return "< 0.001";
  return hour.toFixed(hour === 0 || hour >= 100 ? 2 : 3);
}

export const money = (value, currency) => `${hourly(value)} ${currency}/h`;

export const perSecond = (value, currency) => `${value === 0 ? "0" : value.toPrecision(3)} ${currency}/s`;

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export function figure(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 100000) ? value.toExponential(2) : String(+value.toPrecision(4));
}

// The newest of each path, with how many there were of it; the newest first.
export function grouped(changes) {
  const found = new Map();
  for (const one of changes) {
    const known = found.get(one.path);
    if (known) known.times += 1;
    else found.set(one.path, { ...one, times: 1 });
  }
  return [...found.values()];
}

export const name = (path) => path.slice(path.lastIndexOf("/") + 1);
export const parent = (path) => path.slice(0, Math.max(0, path.lastIndexOf("/")));
