"use strict";
// Draws the panels of the page's data, and, on a page of a server, asks for what is new.
const page = JSON.parse(document.getElementById("data").textContent);
const plots = new Map(); // by the panel's id: {plot, panel, box, logarithmic}
const sync = uPlot.sync("epochs");

const shown = (value) => (value == null ? "" : String(Number(value.toPrecision(4))));

function columns(panel, logarithmic) {
  const values = panel.series.map((one) =>
    logarithmic ? one.values.map((v) => (v > 0 ? v : null)) : one.values);
  return [panel.epochs, ...values];
}

function element(tag, text, parent) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function tick(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? Number(value.toPrecision(3)).toExponential() : shown(value);
}

const whole = [0, 1, 2, 3, 4, 5, 6].flatMap((power) => [1, 2, 5].map((factor) => factor * 10 ** power));

// On a logarithmic axis: powers of ten, or round numbers where there are fewer than two of them.
function splits(min, max) {
  const low = Math.ceil(Math.log10(min) - 1e-9), high = Math.floor(Math.log10(max) + 1e-9);
  if (high > low) {
    const step = Math.ceil((high - low + 1) / 8);
    const count = Math.floor((high - low) / step) + 1;
    return Array.from({length: count}, (_, i) => Number(`1e${low + i * step}`));
  }
  const rough = (max - min) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(min / step), last = Math.floor(max / step);
  return Array.from({length: last - first + 1}, (_, i) => Number(((first + i) * step).toPrecision(8)));
}

function range(min, max) {
  if (min == null) return [0.1, 1];
  const margin = Math.max(1.02, (max / min) ** 0.06);
  return [min / margin, max * margin];
}

const marker = (one) => (one.dash.length === 0 ? "solid" : one.dash[0] > 4 ? "dashed" : "dotted");

function draw(entry, hidden) {
  const {panel, place, logarithmic} = entry;
  if (entry.plot) entry.plot.destroy();
  const few = panel.epochs.length < 40;
  const options = {
    width: place.clientWidth || 320,
    height: Math.min(300, Math.max(220, (place.clientWidth || 320) * 0.5)),
    scales: {
      x: {time: false},
      y: logarithmic ? {distr: 3, range: (_, min, max) => range(min, max)} : {distr: 1},
    },
    cursor: {sync: {key: sync.key, scales: ["x", null], setSeries: false}, drag: {x: true, y: false}, focus: {prox: 24}},
    focus: {alpha: 0.35},
    legend: {live: true, markers: {dash: (_, i) => (i ? marker(panel.series[i - 1]) : "solid")}},
    axes: [
      {label: "epoch", incrs: whole, labelSize: 20, size: 34, values: (_, ticks) => ticks.map(tick)},
      {
        size: 62,
        values: (_, ticks) => ticks.map(tick),
        ...(logarithmic ? {splits: (_, axis, min, max) => splits(min, max), filter: (_, ticks) => ticks} : {}),
      },
    ],
    series: [
      {label: "epoch", value: (_, v) => shown(v)},
      ...panel.series.map((one, i) => ({
        label: one.name,
        stroke: one.color,
        dash: one.dash,
        width: 1.6,
        spanGaps: false,
        points: {show: few, size: 5},
        show: !hidden.has(one.name),
        value: (_, v) => shown(v),
      })),
    ],
  };
  entry.plot = new uPlot(options, columns(panel, logarithmic), place);
  place.querySelectorAll(".u-legend .u-series th").forEach((name, i) => {
    if (i === 0) return;
    name.tabIndex = 0;
    name.setAttribute("role", "button");
    name.title = "hide or show";
    name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      name.click();
    });
  });
  const over = entry.plot.over;
  for (const kind of ["touchstart", "touchmove"]) {
    over.addEventListener(kind, (event) => {
      const box = over.getBoundingClientRect(), finger = event.touches[0];
      entry.plot.setCursor({left: finger.clientX - box.left, top: finger.clientY - box.top});
    }, {passive: true});
  }
}

function hiddenOf(entry) {
  return new Set(entry.plot.series.slice(1).filter((one) => !one.show).map((one) => one.label));
}

function add(panel, parent) {
  const box = element("div", "", parent);
  box.className = "panel";
  box.dataset.panel = panel.id;
  const header = element("header", "", box);
  element("h3", panel.title, header);
  const scale = element("button", "", header), all = element("button", "hide all", header);
  const place = element("div", "", box);
  const entry = {panel, place, logarithmic: panel.logarithmic, note: element("p", "", box)};
  entry.note.className = "note";
  scale.textContent = entry.logarithmic ? "linear" : "logarithmic";
  scale.addEventListener("click", () => {
    entry.logarithmic = !entry.logarithmic;
    scale.textContent = entry.logarithmic ? "linear" : "logarithmic";
    draw(entry, hiddenOf(entry));
  });
  all.addEventListener("click", () => {
    const show = all.textContent === "show all";
    all.textContent = show ? "hide all" : "show all";
    entry.plot.batch(() => entry.panel.series.forEach((_, i) => entry.plot.setSeries(i + 1, {show})));
  });
  draw(entry, new Set());
  return entry;
}

function say(entry) {
  const every = entry.panel.every;
  entry.note.textContent = every ? `Of ${every} epochs with a number about one is drawn.` : "";
}

const names = (panel) => JSON.stringify(panel.series.map((one) => one.name));

function refresh(entry, panel) {
  const same = names(entry.panel) === names(panel);
  const {min, max} = entry.plot.scales.x, before = entry.panel.epochs;
  const whole = min == null || (min <= before[0] && max >= before[before.length - 1]);
  const few = (before.length < 40) === (panel.epochs.length < 40);
  entry.panel = panel;
  if (same && few) {
    // Who has zoomed in stays there.
    entry.plot.setData(columns(panel, entry.logarithmic), whole);
    if (!whole) entry.plot.redraw();
  } else {
    draw(entry, hiddenOf(entry));
  }
}

function show(panels) {
  const parent = document.getElementById("curves");
  if (!parent) return;
  for (const panel of panels) {
    const known = plots.get(panel.id);
    if (known) refresh(known, panel);
    else plots.set(panel.id, add(panel, parent));
    say(plots.get(panel.id));
  }
  if (!plots.size) parent.textContent = "No epoch was recorded.";
}

function clear() {
  const parent = document.getElementById("curves");
  if (parent && !plots.size) parent.textContent = "";
}

function list() {
  const table = document.getElementById("runs"), filter = document.getElementById("filter");
  if (!table || !filter) return () => {};
  const body = table.tBodies[0];
  let column = -1, sign = 1;
  const key = (row) => {
    const cell = row.cells[column], number = Number.parseFloat(cell.title || cell.textContent);
    return Number.isNaN(number) || cell.className !== "number" ? cell.textContent : number;
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0)
    : typeof a === "number" ? -1 : 1);
  const arrange = () => {
    if (column >= 0) body.append(...[...body.rows].sort((a, b) => sign * compare(key(a), key(b))));
    const word = filter.value.toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(word);
  };
  filter.hidden = false;
  filter.addEventListener("input", arrange);
  [...table.tHead.rows[0].cells].forEach((cell, i) => cell.addEventListener("click", () => {
    sign = column === i ? -sign : 1;
    column = i;
    arrange();
  }));
  return (rows) => {
    if (body.dataset.rows === rows) return;
    body.dataset.rows = rows;
    body.innerHTML = rows; // escaped by the server
    arrange();
  };
}

const setRows = list();

async function ask() {
  const begun = performance.now();
  try {
    const answer = await fetch("live.json", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.statusText);
    const fresh = await answer.json();
    if (fresh.rows !== undefined) setRows(fresh.rows);
    else if (fresh.live !== page.live) location.reload();
    else {
      document.getElementById("head").innerHTML = fresh.head; // escaped by the server
      clear();
      show(fresh.panels);
    }
  } catch {
    // The server has ended, or starts again; the page keeps what it has.
  }
  // A long run takes longer to read, and is asked for less often.
  setTimeout(ask, Math.max(2000, 10 * (performance.now() - begun)));
}

let width = 0;
new ResizeObserver(() => {
  if (width === document.body.clientWidth) return;
  width = document.body.clientWidth;
  for (const {plot, place} of plots.values()) {
    plot.setSize({width: place.clientWidth, height: plot.height});
  }
}).observe(document.body);
if (page.panels.length || document.getElementById("curves")) show(page.panels);
if (page.live) setTimeout(ask, 2000);
