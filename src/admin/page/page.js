"use strict";

// Asks /overview for what is new every two seconds and draws it. Text from outside (names of keys,
// messages) is only ever set as text.

const STEP_MS = 2000;
const ROOM = 300;
const HOT_ROWS = 20;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const put = (id, text) => { byId(id).textContent = text; };

const samples = [];
const events = [];
let by = "reads";

const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function count(n) {
  if (Math.abs(n) < 1e5) return NUMBER.format(n);
  const units = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const [size, unit] = units.find(([size]) => Math.abs(n) >= size);
  return `${digits(n / size)} ${unit}`;
}

// Three digits, or all before the point.
function digits(n) {
  return Math.abs(n) < 100 ? n.toPrecision(3) : NUMBER.format(n);
}

function rate(n) {
  return n > 0 && n < 10 ? n.toFixed(1) : count(Math.round(n));
}

function bytes(n) {
  if (Math.abs(n) < 1024) return `${NUMBER.format(n)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let unit = -1;
  do { n /= 1024; unit += 1; } while (Math.abs(n) >= 1024 && unit < 3);
  return `${digits(n)} ${units[unit]}`;
}

function latency(us) {
  if (us == null) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  return `${us < 1e5 ? (us / 1000).toPrecision(2) : NUMBER.format(us / 1000)} ms`;
}

function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });
const percent = (part, whole) => (whole > 0 ? 100 * part / whole : null);
const sum = (list, f) => list.reduce((total, item) => total + f(item), 0);

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text != null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// What a read takes on average with L1: what it answers costs next to nothing beside a round trip.
function readWithL1(s) {
  if (s.mean_us == null) return s.l1_hits > 0 ? 0 : null;
  const looked = s.l1_hits + s.l1_misses;
  return looked > 0 ? s.mean_us * s.l1_misses / looked / 1000 : null;
}

const ms = (us) => (us == null ? null : us / 1000);

const CHARTS = [
  { id: "chart-rate", format: rate, lines: [
    { name: "all", of: (s) => s.commands / s.seconds, color: "c1", area: true },
    { name: "L1", of: (s) => s.l1_hits / s.seconds, color: "c2", area: true }] },
  { id: "chart-hits", format: (n) => `${Math.round(n)} %`, top: 100, lines: [
    { name: "hits", of: (s) => percent(s.l1_hits, s.l1_hits + s.l1_misses), color: "c2", area: true }] },
  { id: "chart-latency", format: (n) => `${n < 10 ? n.toPrecision(2) : Math.round(n)} ms`, lines: [
    { name: "p50", of: (s) => ms(s.p50_us), color: "c1" },
    { name: "p99", of: (s) => ms(s.p99_us), color: "c4" },
    { name: "with L1", of: readWithL1, color: "c2" }] },
  { id: "chart-connections", format: count, least: 2, lines: [
    { name: "app", of: (s) => s.clients, color: "c3", area: true },
    { name: "server", of: (s) => s.connections, color: "c1" }] },
];

// How many steps the charts show: the last minutes, or fewer while the process is young.
function shown() {
  return [30, 60, 150].find((steps) => samples.length <= steps) || ROOM;
}

// A round number at or above the largest value.
function ceiling(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= most) * power;
}

function draw(chart) {
  const view = byId(chart.id);
  const width = view.clientWidth || 300;
  const height = view.clientHeight || 150;
  const [left, right, upper, lower] = [46, 6, 8, 18];
  const values = chart.lines.map((line) => samples.map(line.of));
  const top = chart.top || ceiling(Math.max(chart.least || 0, ...values.flat().filter((v) => v != null)));
  const steps = shown();
  const x = (i) => left + (width - left - right) * (steps - samples.length + i) / (steps - 1);
  const y = (v) => height - lower - (height - upper - lower) * Math.min(v / top, 1);
  view.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(top * share), y2: y(top * share) }));
    const label = svg("text", { x: left - 6, y: y(top * share) + 4, "text-anchor": "end" });
    label.textContent = chart.format(top * share);
    parts.push(label);
  }
  for (const [share, text, anchor] of [[0, `${steps * STEP_MS / 60000} min ago`, "start"], [1, "now", "end"]]) {
    const label = svg("text", { x: left + (width - left - right) * share, y: height - 3, "text-anchor": anchor });
    label.textContent = text;
    parts.push(label);
  }
  chart.lines.forEach((line, n) => parts.push(...path(line, values[n], x, y)));
  view.replaceChildren(...parts);
  chart.at = { left, right, upper, lower, width, height, steps, values, x };
  point(chart, view);
}

// A line with gaps where there is no value.
function path(line, values, x, y) {
  let d = "";
  let area = "";
  let start = null;
  values.forEach((value, i) => {
    if (value != null) {
      d += `${start == null ? "M" : "L"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
      if (start == null) start = i;
    }
    const ends = value == null || i === values.length - 1;
    if (ends && start != null) {
      const last = value == null ? i - 1 : i;
      const from = d.lastIndexOf("M");
      area += `${d.slice(from)}L${x(last).toFixed(1)} ${y(0)}L${x(start).toFixed(1)} ${y(0)}Z`;
      start = null;
    }
  });
  const made = [svg("path", { class: line.color, d })];
  if (line.area) made.unshift(svg("path", { class: `area ${line.color}`, d: area }));
  return made;
}

// The values under the pointer.
function point(chart, view) {
  view.querySelectorAll(".cursor, .tip").forEach((old) => old.remove());
  if (chart.pointer == null || !samples.length) return;
  const { left, right, upper, lower, width, height, steps, values, x } = chart.at;
  const share = (chart.pointer - left) / (width - left - right);
  const i = Math.round(share * (steps - 1)) - (steps - samples.length);
  if (i < 0 || i >= samples.length) return;
  view.append(svg("line", { class: "cursor", x1: x(i), x2: x(i), y1: upper, y2: height - lower }));
  const texts = chart.lines.map((line, n) => `${line.name} ${values[n][i] == null ? "–" : chart.format(values[n][i])}`);
  const tip = svg("text", { class: "tip", x: share < 0.5 ? x(i) + 6 : x(i) - 6, y: upper + 8, "text-anchor": share < 0.5 ? "start" : "end" });
  tip.textContent = `${clock(samples[i].at_ms)}  ${texts.join("  ")}`;
  view.append(tip);
}

function follow(chart) {
  const view = byId(chart.id);
  view.addEventListener("pointermove", (event) => {
    chart.pointer = event.clientX - view.getBoundingClientRect().left;
    if (chart.at) point(chart, view);
  });
  view.addEventListener("pointerleave", () => {
    chart.pointer = null;
    if (chart.at) point(chart, view);
  });
}

function list(id, rows) {
  byId(id).replaceChildren(...rows.filter(Boolean).flatMap(([name, value, isWords]) =>
    [element("dt", name), element("dd", value, isWords ? "words" : "")]));
}

function showState(o) {
  const { upstream } = o;
  const words = {
    up: ["healthy", "good"], strained: ["healthy, no further connection", "warn"], degraded: ["degraded", "warn"],
    down: ["server unreachable", "bad"], unknown: ["server not needed yet", "warn"],
  };
  const [word, tone] = o.draining && upstream.state !== "down" ? ["draining", "warn"] : words[upstream.state];
  put("state", word);
  byId("state").className = `pill ${tone}`;
  put("where", `${upstream.address} (${upstream.provider})`);
  put("about", `version ${o.version}, up ${span(o.uptime_seconds)}`);
  const alarms = [];
  if (upstream.cause) {
    const what = upstream.state === "down" ? "Server unreachable" : "Something is wrong with the server";
    alarms.push(`${what} (${upstream.cause}): ${upstream.message}. ${upstream.advice}.`);
  }
  if (upstream.tls_verify_disabled) alarms.push("The server's certificate is not checked (upstream.verify): anyone in between can pose as it.");
  if (o.commands.desyncs) alarms.push(`${o.commands.desyncs} connections were closed for a surplus, missing or malformed reply: please report it.`);
  if (o.commands.panics) alarms.push(`${o.commands.panics} sessions were ended by a panic: please report it with the log.`);
  byId("alarm").hidden = !alarms.length;
  put("alarm", alarms.join("  "));
}

function showNumbers(o) {
  const { upstream, clients, commands } = o;
  put("clients", count(clients.now));
  put("clients-more", [`of at most ${count(clients.max)}`, clients.subscribers && `${count(clients.subscribers)} subscribed`,
    clients.refused && `${count(clients.refused)} refused`].filter(Boolean).join(", "));
  put("connections", count(upstream.connections));
  put("connections-more", `peak ${upstream.connections_peak}, ceiling ${upstream.connections_max}`);
  put("ratio", upstream.connections > 0 && clients.now > 0 ? `${rate(clients.now / upstream.connections)} : 1` : "");
  const lately = samples.slice(-5);
  const seconds = sum(lately, (s) => s.seconds);
  const [all, hits, misses] = ["commands", "l1_hits", "l1_misses"].map((name) => sum(lately, (s) => s[name]));
  put("rate", seconds > 0 ? rate(all / seconds) : "–");
  put("rate-more", `${count(commands.total)} since start`);
  const ratio = percent(hits, hits + misses);
  put("hits", ratio == null ? "–" : `${ratio.toFixed(ratio > 99 ? 1 : 0)} %`);
  const { health } = o.l1;
  put("hits-more", health.mode === "off" ? `L1 is off${health.why ? `: ${health.why}` : ""}`
    : `${health.mode}, ${count(health.entries)} entries, ${bytes(health.bytes)}`);
  const trips = lately.filter((s) => s.p50_us != null);
  put("p50", trips.length ? latency(trips[trips.length - 1].p50_us) : "–");
  put("p50-more", trips.length ? `p99 ${latency(trips[trips.length - 1].p99_us)}` : "no command travelled lately");
  const failed = sum(samples, (s) => s.errors);
  put("errors", count(failed));
  const kinds = Object.entries(commands.errors).filter(([, n]) => n > 0).map(([kind, n]) => `${kind} ${count(n)}`);
  put("errors-more", kinds.length ? `since start: ${kinds.join(", ")}` : "none since start");
}

function showLists(o) {
  const { upstream, commands, l1 } = o;
  const off = l1.health.mode === "observe";
  const saved = off ? l1.would_save : l1.saved;
  list("saved", [
    off && ["only observed", "nothing is served: this is what L1 would save", true],
    ["commands", count(saved.commands)],
    ["bytes", bytes(saved.bytes)],
    ["waiting", span(saved.seconds)],
    ["money", saved.money == null ? "no price is stated ([cost])" : saved.money.toFixed(2), saved.money == null],
    l1.stale_hits > 0 && ["answered stale, server down", count(l1.stale_hits)],
    ["L1", l1.health.why ? `${l1.health.mode}: ${l1.health.why}` : l1.health.mode, true],
    ["memory", `${bytes(l1.health.bytes)} of ${bytes(l1.health.max_bytes)}`],
  ]);
  const failures = Object.entries(upstream.failures).filter(([, n]) => n > 0).map(([cause, n]) => `${cause} ${count(n)}`);
  list("server", [
    ["address", upstream.address, true],
    ["last round trip", upstream.latency_us ? latency(upstream.latency_us) : "–"],
    ["in flight", count(upstream.in_flight)],
    ["leased / waiting for a lease", `${upstream.leases_held} / ${upstream.leases_awaited}`],
    ["connected / lost", `${count(upstream.connects)} / ${count(upstream.lost)}`],
    ["failed attempts", failures.length ? failures.join(", ") : "none", true],
    ["sent / received", `${bytes(upstream.bytes_out)} / ${bytes(upstream.bytes_in)}`],
    ["error replies passed on", count(commands.error_replies)],
    ["reads sent once more", count(commands.retries)],
  ]);
  byId("events").replaceChildren(...events.slice().reverse().map((event) => {
    const row = element("li", null, event.level);
    row.append(element("time", clock(event.at_ms)), element("span", event.level, "level"), element("span", event.text));
    return row;
  }));
  if (!events.length) byId("events").append(element("li", "nothing yet"));
}

function showHot(page) {
  const rows = page.keys.map((key) => {
    const row = element("tr");
    const name = element("td", key.key);
    name.title = key.key;
    row.append(name, element("td", count(key.reads), "n"), element("td", count(key.hits), "n"),
      element("td", count(key.writes), "n"), element("td", bytes(key.bytes), "n"),
      element("td", key.advice, key.hits > 0 && key.hits >= key.reads / 2 ? "good-text" : ""));
    return row;
  });
  if (!rows.length) {
    const row = element("tr");
    const cell = element("td", "no key was read or written");
    cell.colSpan = 6;
    row.append(cell);
    rows.push(row);
  }
  byId("hot").tBodies[0].replaceChildren(...rows);
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

let started = null;

async function refresh() {
  const last = (list) => (list.length ? list[list.length - 1].number : 0);
  const [o, hot] = await Promise.all([
    get(`overview?sample=${last(samples)}&event=${last(events)}`), get(`hotkeys?by=${by}&n=${HOT_ROWS}`)]);
  const begun = Date.now() / 1000 - o.uptime_seconds;
  if (started != null && Math.abs(begun - started) > 30) {
    // Another process answers: its numbers begin anew.
    samples.length = 0;
    events.length = 0;
    started = begun;
    return;
  }
  started = started == null ? begun : started;
  samples.push(...o.samples);
  samples.splice(0, samples.length - ROOM);
  events.push(...o.events);
  events.splice(0, events.length - 100);
  showState(o);
  showNumbers(o);
  showLists(o);
  showHot(hot);
  CHARTS.forEach(draw);
}

async function run() {
  for (;;) {
    try {
      if (!document.hidden) await refresh();
      document.body.classList.remove("stale");
    } catch (error) {
      document.body.classList.add("stale");
      put("state", "no answer");
      byId("state").className = "pill bad";
      byId("alarm").hidden = false;
      put("alarm", `Nearkey does not answer (${error.message}). What is shown is old.`);
    }
    await new Promise((resolve) => setTimeout(resolve, STEP_MS));
  }
}

CHARTS.forEach(follow);
document.querySelectorAll(".tabs button").forEach((button) => button.addEventListener("click", async () => {
  by = button.dataset.by;
  document.querySelectorAll(".tabs button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
  showHot(await get(`hotkeys?by=${by}&n=${HOT_ROWS}`));
}));
window.addEventListener("resize", () => CHARTS.forEach((chart) => chart.at && draw(chart)));
run();
