// The page live: listens to the lab, fetches the view again when it changed, and draws the charts. No request goes anywhere else.
"use strict";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const live = document.getElementById("live");
const charts = new Map(); // by element: the chart, so that it can be made anew

function say(text, on) {
  if (live.textContent !== text) live.textContent = text;
  live.classList.toggle("on", on);
}

function sizeOf(box, height) {
  return { width: Math.max(box.clientWidth, 240), height };
}

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000]; // steps of an axis that counts

function axes(xName, yName, steps) {
  const common = { stroke: colour("faint"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false } };
  return [
    { ...common, label: xName, size: 30, labelSize: 24, grid: { show: false }, ...(steps ? { incrs: steps } : {}) },
    { ...common, label: yName, size: 62, labelSize: 22 },
  ];
}

function put(box, options, data) {
  charts.get(box)?.destroy();
  const chart = new uPlot(options, data, box);
  charts.set(box, chart);
  return chart;
}

// ---- the campaign

const KINDS = {
  "tried": ["chart-point", 6], "promoted": ["chart-good", 10], "not verified": ["chart-point", 5], "other conditions": ["line", 5],
  "failed": ["chart-bad", 6], "stopped early": ["chart-bad", 5], "another device": ["faint", 5],
};

function edge(data, low, high) {
  return data.goal === "min" ? high + (high - low) * 0.06 : low - (high - low) * 0.06;
}

function yRange(data) {
  const levels = data.champions.flatMap((c) => [c.level, ...c.band.flatMap((at) => [at[2], at[3]])]);
  const values = (data.points.tried || data.points.promoted || data.points["not verified"] || [[], []])[1].slice().sort((a, b) => a - b);
  const q1 = values[Math.floor(values.length / 4)], q3 = values[Math.floor(3 * values.length / 4)], reach = 1.5 * (q3 - q1);
  const kept = [...values.filter((y) => (data.goal === "min" ? y <= q3 + reach : y >= q1 - reach)), ...levels, ...(data.points.promoted?.[1] || [])];
  if (!kept.length) return [0, 1];
  const low = Math.min(...kept), high = Math.max(...kept), margin = Math.max((high - low) * 0.1, Math.abs(high) * 1e-3);
  return [low - margin, high + margin];
}

function championSteps(data, end) {
  const steps = new Map(); // number -> [mean, low, high]
  for (const c of data.champions) {
    if (!c.comparable) continue;
    steps.set(c.start, [c.level, null, null]);
    for (const [number, mean, low, high] of c.band) steps.set(Math.max(number, c.start), [mean, low, high]);
  }
  const last = [...steps.keys()].sort((a, b) => a - b).pop();
  if (last !== undefined && last < end) steps.set(end, steps.get(last));
  return steps;
}

let zoom = "", drawn = "";
async function drawProgress(onlyIfNew = false) {
  const box = document.getElementById("progress");
  if (!box) return;
  const answer = await fetch(`/progress.json${location.search}${zoom ? (location.search ? "&" : "?") + zoom : ""}`);
  if (!answer.ok) return;
  const text = await answer.text();
  if (text === drawn && onlyIfNew) return;
  drawn = text;
  const data = JSON.parse(text);
  document.getElementById("progress-note").textContent = data.total
    ? `${data.title}. Drag to zoom, double-click for all. Click a point to open it.` : "No experiment has ended yet. Each one will be a point here.";
  box.hidden = !data.total;
  if (!data.total) return;
  const [low, high] = yRange(data), top = edge(data, low, high), steps = championSteps(data, data.range[1]);
  const kinds = Object.keys(data.points);
  const xs = [...new Set([...kinds.flatMap((kind) => data.points[kind][0]), ...steps.keys()])].filter((x) => x >= data.range[0] && x <= data.range[1]).sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const columns = kinds.map((kind) => {
    const column = new Array(xs.length).fill(null);
    data.points[kind][0].forEach((x, i) => { const y = data.points[kind][1][i]; column[place.get(x)] = y === null ? top : Math.min(Math.max(y, Math.min(low, top)), Math.max(high, top)); });
    return column;
  });
  const lines = [0, 1, 2].map((which) => { let held = null; return xs.map((x) => { if (steps.has(x)) held = steps.get(x)[which]; return held; }); });
  const stepped = uPlot.paths.stepped({ align: 1 }), none = { show: false };
  const options = {
    ...sizeOf(box, window.innerWidth < 640 ? 320 : 400),
    scales: { x: { time: false, range: (u, min, max) => [Math.max(min - 0.5, 0), max + 0.5] }, y: { range: [Math.min(low, top) - (high - low) * 0.03, Math.max(high, top) + (high - low) * 0.03] } },
    axes: axes("experiments, in the order they ended", data.metric, WHOLE),
    legend: { live: false },
    cursor: { drag: { x: true, y: false }, points: { show: false } },
    bands: [{ series: [2, 3], fill: colour("chart-line") + "33" }],
    series: [
      { label: "experiment" },
      { label: "champion", stroke: colour("chart-line"), width: 2, paths: stepped, points: none },
      { label: "its 95 %", stroke: colour("chart-line") + "66", width: 1, paths: stepped, points: none },
      { class: "unnamed", stroke: "transparent", paths: stepped, points: none },
      ...kinds.map((kind) => ({ label: kind, stroke: colour(KINDS[kind][0]), paths: () => null,
        points: { show: true, size: KINDS[kind][1], fill: kind === "failed" || kind === "stopped early" || kind === "not verified" ? "transparent" : colour(KINDS[kind][0]), width: 1.2 } })),
    ],
    hooks: {
      setSelect: [(u) => { if (u.select.width > 5) { zoom = `from=${Math.ceil(u.posToVal(u.select.left, "x"))}&to=${Math.floor(u.posToVal(u.select.left + u.select.width, "x"))}`; drawProgress(); } }],
      setCursor: [(u) => hover(u, data, columns, kinds)],
    },
  };
  const chart = put(box, options, [xs, lines[0], lines[2], lines[1], ...columns]);
  chart.over.addEventListener("dblclick", () => { zoom = ""; drawProgress(); });
  chart.over.addEventListener("click", () => { if (chart.near && chart.select.width < 5) location.href = `/experiment/${chart.near}`; });
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  chart.over.append(tip);
  chart.tip = tip;
  box.dataset.points = xs.length;
}

function hover(u, data, columns, kinds) {
  if (!u.tip) return;
  const { left, top } = u.cursor;
  let best = 14, at = null;
  columns.forEach((column, k) => column.forEach((y, i) => {
    if (y === null) return;
    const away = Math.hypot(u.valToPos(u.data[0][i], "x") - left, u.valToPos(y, "y") - top);
    if (away < best) { best = away; at = [i, k, y]; }
  }));
  u.near = at && data.ids[u.data[0][at[0]]];
  u.over.style.cursor = u.near ? "pointer" : "crosshair";
  u.tip.hidden = !at;
  if (!at) return;
  const x = u.data[0][at[0]], kind = kinds[at[1]], valued = !["failed", "stopped early", "another device"].includes(kind);
  u.tip.textContent = `${x}: ${kind}${valued ? " " + at[2].toFixed(4) : ""}${data.labels[x] ? " · " + data.labels[x] : ""}`;
  u.tip.style.left = `${Math.min(left + 12, u.over.clientWidth - 180)}px`;
  u.tip.style.top = `${top + 12}px`;
}

// ---- curves

async function drawCurve(box) {
  const id = box.dataset.curve;
  const answer = await fetch(`/curve/${encodeURIComponent(id)}.json`);
  if (!answer.ok || !box.isConnected) return;
  const data = await answer.json(), small = box.classList.contains("small");
  if (!data.own.length && !data.champion.length) { box.textContent = "No curve yet."; box.classList.add("hint"); return; }
  if (!charts.has(box)) box.textContent = "";
  const xs = [...new Set([...data.own.map((p) => p[0]), ...data.champion.map((p) => p[0])])].sort((a, b) => a - b);
  const own = new Map(data.own), champion = new Map(data.champion.map((p) => [p[0], p.slice(1)]));
  const late = [...data.own.filter((p) => p[0] > 0.15).map((p) => p[1]), ...data.champion.filter((p) => p[0] > 0.15).flatMap((p) => [p[1], p[3]])].filter(Number.isFinite);
  const low = Math.min(...late), high = Math.max(...late), margin = (high - low) * 0.15 || 0.1;
  const span = { spanGaps: true, points: { show: false } };
  put(box, {
    ...sizeOf(box, small ? 150 : 260),
    scales: { x: { time: false, range: [0, 1] }, y: late.length ? { range: [low - margin, high + margin * 2] } : {} },
    axes: small ? [{ show: false }, { stroke: colour("faint"), size: 50, grid: { stroke: colour("line") }, ticks: { show: false } }] : axes("share of the budget", "training loss"),
    legend: { show: !small, live: false },
    cursor: { show: false },
    bands: [{ series: [3, 2], fill: colour("chart-line") + "33" }],
    series: [
      { label: "share" },
      { ...span, label: `champion's mean (${data.runs} runs)`, stroke: colour("chart-line"), width: 1.5 },
      { ...span, label: "their range", stroke: colour("chart-line") + "44", width: 1 },
      { ...span, class: "unnamed", stroke: colour("chart-line") + "44", width: 1 },
      { ...span, label: "this one", stroke: colour("chart-bad"), width: 2 },
    ],
  }, [xs, ...[1, 0, 2].map((i) => xs.map((x) => champion.get(x)?.[i] ?? null)), xs.map((x) => own.get(x) ?? null)]);
}

function drawCurves(within) {
  within.querySelectorAll("[data-curve]").forEach(drawCurve);
}

// ---- live

function follow(log) {
  log.scrollTop = log.scrollHeight;
}

let asking = false, again = false, tag = "";
async function refresh() {
  if (asking) { again = true; return; }
  if (!document.querySelector("[data-live]")) return; // what a form was answered
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { Prefer: "wait", ...(tag ? { "If-None-Match": tag } : {}) }, cache: "no-store" });
    if (answer.redirected) { location.reload(); return; }
    if (answer.status === 200) {
      const isWhole = swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      tag = isWhole ? answer.headers.get("ETag") || "" : ""; // what was left out is asked for again
      await drawProgress(true);
    } else if (document.querySelector("[data-curve]")) {
      drawCurves(document);
    }
  } catch { // the server is away: what comes back when it does is an event
  } finally {
    asking = false;
    if (again) { again = false; setTimeout(refresh, 1000); }
  }
}

function isInUse(part) {
  return part.querySelector("details[open]") || (part.contains(document.activeElement) && document.activeElement.matches("a, button, input, select, summary"))
    || [...part.querySelectorAll("input:not([type=hidden])")].some((field) => field.value !== field.defaultValue);
}

function swap(fresh) {
  let isWhole = true;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (!other) continue;
    if (isInUse(part)) { isWhole = false; continue; } // somebody types there, or is on the way through it by keyboard
    const log = part.querySelector(".log"), atEnd = log && log.scrollTop + log.clientHeight > log.scrollHeight - 20;
    const ids = (root) => [...root.querySelectorAll("[data-curve]")].map((box) => box.dataset.curve).join();
    if (ids(part) && ids(part) === ids(other)) { // keep the canvases: move them into what is new
      other.querySelectorAll("[data-curve]").forEach((box) => box.replaceWith(part.querySelector(`[data-curve="${box.dataset.curve}"]`)));
    }
    if (part.innerHTML === other.innerHTML) continue;
    part.replaceChildren(...other.childNodes);
    delete part.dataset.pending;
    if (atEnd) follow(part.querySelector(".log"));
  }
  for (const box of charts.keys()) if (!box.isConnected) { charts.get(box).destroy(); charts.delete(box); }
  drawCurves(document);
  return isWhole;
}

let source = null;
function listen() { // a tab that nobody looks at holds no connection: a browser has six for one server
  source?.close();
  source = document.hidden ? null : new EventSource("/events");
  if (!source) return;
  source.onopen = () => say("live", true);
  source.onmessage = () => setTimeout(refresh, Math.random() * 800); // the first too: the lab may have changed since the view was made
  source.onerror = ({ target }) => {
    say("connecting again", false);
    if (target.readyState === EventSource.CLOSED) setTimeout(listenAgain, 3_000); // a proxy answered while the server was away, or the token is gone
  };
}

function listenAgain() {
  if (source?.readyState === EventSource.CLOSED) { listen(); refresh(); }
}

document.addEventListener("change", ({ target }) => { if (target.matches(".filters select")) target.form.requestSubmit(); });
document.querySelectorAll(".log").forEach(follow);
drawProgress();
drawCurves(document);
if (document.querySelector("[data-pending]")) refresh(); // an outline: its numbers are still being read
listen();
document.addEventListener("visibilitychange", listen);
setInterval(() => { if (!document.hidden) refresh(); }, 60_000); // for "5 min ago"
let resized;
window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { drawProgress(); drawCurves(document); }, 200); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawProgress(); drawCurves(document); });
