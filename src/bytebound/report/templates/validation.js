const data = JSON.parse(document.getElementById("bb-charts").textContent);
const KEYS = Object.keys(data.keys);
const TOTAL = data.measured.length;
const SHOWN = 40, COLOURS = 11;
const at = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};
const name = (key, row) => data.keys[key].names[data.keys[key].codes[row]];
const text = (column, row) => data.texts[column].names[data.texts[column].codes[row]];
const called = (key, value) => (key === "metric" ? data.metrics[value]?.[0] ?? value : value) || "not stated";

const digits = (value) => {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const places = Math.max(2 - Math.floor(Math.log10(Math.abs(value))), 0);
  const [whole, rest] = Number(value.toPrecision(3)).toFixed(Math.min(places, 12)).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") + (rest ? `.${rest}` : "");
};
const steps = {
  s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]],
  B: [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]],
};
const show = (value, metric) => {
  if (value === null || !Number.isFinite(value)) return "–";
  const unit = data.metrics[metric]?.[1] ?? "";
  if (steps[unit]) {
    const [scale, mark] = steps[unit].find(([size]) => value >= size * 0.9995) ?? steps[unit].at(-1);
    return `${digits(value / scale)} ${mark}`;
  }
  if (unit !== "tokens" && value >= 1e6) return `${digits(value / 1e6)} M${unit}`;
  return `${digits(value)} ${unit}`.trim();
};
const scaled = (metric) => Boolean(steps[data.metrics[metric]?.[1]]);
const tick = (value, metric) => {
  if (scaled(metric)) return show(value, metric).replace(/(\.\d*?)0+(?= |$)/, "$1").replace(/\.(?= |$)/, "");
  return value >= 0.001 && value < 1e7 ? String(Number(value.toPrecision(3))).replace(/\B(?=(\d{3})+$)/g, value < 1000 ? "" : "\u202f") : value.toExponential(0);
};
const titled = (words, metric) => (scaled(metric) ? words : `${words}, ${data.metrics[metric]?.[1] ?? ""}`);
const share = (value, signed = false) => {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value >= 10) return `×${digits(signed ? value + 1 : value)}`;
  const size = 100 * Math.abs(value), shown = size > 0 && size < 9.95 ? size.toFixed(1) : size.toFixed(0);
  const sign = Number(shown) === 0 ? "" : value < 0 ? "−" : signed ? "+" : "";
  return `${sign}${shown} %`;
};
const number = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const quantile = (sorted, part) => {
  if (!sorted.length) return null;
  const place = (sorted.length - 1) * part, low = Math.floor(place), high = Math.ceil(place);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
};

const good = (row) => data.predicted[row] !== null && data.predicted[row] > 0 && data.measured[row] > 0;
const ratio = (row) => data.predicted[row] / data.measured[row];
const score = (rows) => {
  const signed = rows.map((row) => ratio(row) - 1).sort((a, b) => a - b);
  const errors = signed.map(Math.abs).sort((a, b) => a - b);
  const held = rows.filter((row) => data.low[row] !== null && data.high[row] !== null);
  const inside = held.filter((row) => data.low[row] <= data.measured[row] && data.measured[row] <= data.high[row]).length;
  return {
    rows: rows.length, median: quantile(errors, 0.5), ninety: quantile(errors, 0.9), bias: quantile(signed, 0.5),
    near: errors.length ? errors.filter((error) => error <= data.near).length / errors.length : null,
    coverage: held.length ? inside / held.length : null,
  };
};

const state = { group: "kind", find: "", ...Object.fromEntries(KEYS.map((key) => [key, ""])) };
const readHash = () => {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const key of KEYS) state[key] = data.keys[key].names.includes(asked.get(key) ?? "\0") ? asked.get(key) : "";
  state.group = KEYS.includes(asked.get("group")) ? asked.get("group") : "kind";
  state.find = asked.get("find") ?? "";
};
const writeHash = () => {
  const asked = new URLSearchParams();
  for (const key of KEYS) if (state[key]) asked.set(key, state[key]);
  if (state.group !== "kind") asked.set("group", state.group);
  if (state.find) asked.set("find", state.find);
  const words = asked.toString();
  try { history.replaceState(null, "", words ? `#${words}` : location.pathname + location.search); } catch { /* a page from a disk may refuse */ }
};
const set = (changes) => { Object.assign(state, changes); unpin(); writeHash(); draw(); };

const hays = new Array(TOTAL);
const hay = (row) => (hays[row] ??= [data.id[row], text("work", row), text("locator", row), ...KEYS.map((key) => name(key, row))].join(" ").toLowerCase());
const matching = (without) => {
  const wanted = KEYS.filter((key) => state[key] && key !== without).map((key) => [data.keys[key].codes, data.keys[key].names.indexOf(state[key])]);
  const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let row = 0; row < TOTAL; row++) {
    if (!wanted.every(([codes, code]) => codes[row] === code)) continue;
    if (!words.every((word) => hay(row).includes(word))) continue;
    rows.push(row);
  }
  return rows;
};
const groupsOf = (rows, key) => {
  const found = new Map();
  for (const row of rows) {
    const value = name(key, row);
    if (!found.has(value)) found.set(value, []);
    found.get(value).push(row);
  }
  return [...found].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
};

const controls = () => {
  for (const key of KEYS) {
    const box = at(`by-${key}`);
    const options = groupsOf(matching(key), key).map(([value, rows]) => make("option", { value, textContent: `${called(key, value)} (${number(rows.length)})`, selected: state[key] === value }));
    box.replaceChildren(make("option", { value: "", textContent: "all", selected: !state[key] }), ...options);
    if (state[key] && box.value !== state[key]) box.append(make("option", { value: state[key], textContent: `${called(key, state[key])} (0)`, selected: true }));
    box.closest("label").classList.toggle("set", Boolean(state[key]));
  }
  at("by-group").value = state.group;
  if (at("find").value !== state.find) at("find").value = state.find;
};

const colour = (mark) => getComputedStyle(document.documentElement).getPropertyValue(`--${mark}`).trim();
let shades = new Map();
const shade = (value) => shades.get(value) ?? "c11";

const surface = (canvas, height) => {
  const width = Math.max(canvas.parentElement.clientWidth, 200), dense = devicePixelRatio || 1;
  canvas.width = Math.round(width * dense);
  canvas.height = Math.round(height * dense);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(dense, dense);
  pen.font = "12px system-ui, sans-serif";
  return [pen, width, height];
};
const ticksOf = (low, high) => {
  const decades = high - low, found = [];
  const every = Math.max(1, Math.ceil(decades / 7)), parts = decades < 1.2 ? [1, 2, 3, 5, 7] : decades < 2.6 ? [1, 2, 5] : decades < 4 ? [1, 3] : [1];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) {
    if (((power % every) + every) % every) continue;
    for (const part of parts) {
      const place = power + Math.log10(part);
      if (place >= low && place <= high) found.push(part * 10 ** power);
    }
  }
  return found;
};

const scatter = (canvas, metric, rows, height) => {
  const [pen, width] = surface(canvas, height);
  const right = 14, top = 24, bottom = 40;
  const logs = rows.flatMap((row) => [Math.log10(data.measured[row]), Math.log10(data.predicted[row])]);
  let low = Infinity, high = -Infinity;
  for (const value of logs) { if (value < low) low = value; if (value > high) high = value; }
  if (high - low < 0.3) { const middle = (high + low) / 2; low = middle - 0.15; high = middle + 0.15; }
  const slack = (high - low) * 0.04;
  low -= slack; high += slack;
  const ticks = ticksOf(low, high);
  const left = 12 + Math.max(20, ...ticks.map((value) => pen.measureText(tick(value, metric)).width));
  const x = (value) => left + (Math.log10(value) - low) / (high - low) * (width - left - right);
  const y = (value) => height - bottom - (Math.log10(value) - low) / (high - low) * (height - top - bottom);
  const first = 10 ** low, last = 10 ** high;
  pen.save();
  pen.beginPath(); pen.rect(left, top, width - left - right, height - top - bottom); pen.clip();
  pen.fillStyle = colour("good"); pen.globalAlpha = 0.13;
  pen.beginPath();
  pen.moveTo(x(first), y(first * (1 + data.near))); pen.lineTo(x(last), y(last * (1 + data.near)));
  pen.lineTo(x(last), y(last * (1 - data.near))); pen.lineTo(x(first), y(first * (1 - data.near)));
  pen.fill();
  pen.restore();
  pen.fillStyle = colour("muted"); pen.strokeStyle = colour("line"); pen.lineWidth = 1;
  let free = -Infinity;
  for (const value of ticks) {
    const words = tick(value, metric), wide = pen.measureText(words).width;
    pen.beginPath();
    pen.moveTo(x(value), top); pen.lineTo(x(value), height - bottom);
    pen.moveTo(left, y(value)); pen.lineTo(width - right, y(value));
    pen.stroke();
    pen.textAlign = "right"; pen.textBaseline = "middle"; pen.fillText(words, left - 7, y(value));
    pen.textAlign = "center"; pen.textBaseline = "top";
    if (x(value) - wide / 2 > free && x(value) + wide / 2 < width) { pen.fillText(words, x(value), height - bottom + 6); free = x(value) + wide / 2 + 8; }
  }
  pen.textAlign = "right"; pen.fillText(titled("measured", metric), width - right, height - 15);
  pen.textAlign = "left"; pen.fillText(titled("predicted", metric), 2, 2);
  pen.strokeStyle = colour("ink"); pen.lineWidth = 1.2;
  pen.beginPath(); pen.moveTo(x(first), y(first)); pen.lineTo(x(last), y(last)); pen.stroke();
  const size = rows.length > 3000 ? 2 : rows.length > 400 ? 2.7 : 3.6;
  pen.globalAlpha = rows.length > 3000 ? 0.4 : rows.length > 400 ? 0.55 : 0.8;
  const paints = new Map();
  for (const row of rows) {
    const mark = shade(name(state.group, row));
    if (!paints.has(mark)) paints.set(mark, colour(mark));
    pen.fillStyle = paints.get(mark);
    pen.beginPath(); pen.arc(x(data.measured[row]), y(data.predicted[row]), size, 0, 7); pen.fill();
  }
  pen.globalAlpha = 1;
  return { pen, x, y, top, left, right: width - right, floor: height - bottom, size };
};
const highlight = (panel, row) => {
  const { pen, x, y, size, top, floor } = panel;
  const place = x(data.measured[row]), inside = (value) => Math.min(Math.max(y(value), top), floor);
  pen.strokeStyle = colour("ink"); pen.lineWidth = 1.6;
  pen.beginPath();
  if (data.low[row] !== null && data.high[row] !== null) {
    pen.moveTo(place, inside(data.low[row])); pen.lineTo(place, inside(data.high[row]));
    for (const end of [data.low[row], data.high[row]]) { pen.moveTo(place - 5, inside(end)); pen.lineTo(place + 5, inside(end)); }
  }
  pen.stroke();
  pen.fillStyle = colour(shade(name(state.group, row)));
  pen.beginPath(); pen.arc(place, y(data.predicted[row]), size + 2.5, 0, 7); pen.fill(); pen.stroke();
};

const tip = at("tip");
let pinned = null;
const unpin = () => { pinned = null; tip.hidden = true; tip.classList.remove("pinned"); };
const describe = (row) => {
  const metric = name("metric", row), locator = text("locator", row);
  const around = data.low[row] === null ? "" : ` (${show(data.low[row], metric)} to ${show(data.high[row], metric)})`;
  const lines = [
    ["", data.id[row]],
    ["measured", show(data.measured[row], metric)],
    ["predicted", `${show(data.predicted[row], metric)}${around}`],
    ["error", share(ratio(row) - 1, true)],
    ["physical limit", data.floor[row] === null ? "" : show(data.floor[row], metric)],
    ["metric", called("metric", metric)],
    ...["device", "engine", "model"].map((key) => [key, name(key, row)]),
    ["work", text("work", row)],
    ["regime", name("regime", row)],
    ["source", name("source", row)],
  ];
  const list = make("dl");
  for (const [label, words] of lines) if (words) list.append(make("dt", { textContent: label }), make("dd", { textContent: words, className: label ? "" : "id" }));
  if (locator) {
    const link = /^https:\/\/\S+$/.test(locator) ? make("a", { href: locator, rel: "noreferrer", textContent: locator }) : locator;
    list.append(make("dt", { textContent: "found in" }), make("dd", {}, link));
  }
  return list;
};
const placeTip = (row, left, top, pin) => {
  tip.replaceChildren(describe(row), ...(pin ? [] : [make("p", { textContent: "click to keep this open" })]));
  tip.hidden = false;
  tip.classList.toggle("pinned", pin);
  const wide = tip.offsetWidth, tall = tip.offsetHeight;
  const beside = left + wide + 24 < innerWidth ? left + 16 : left - wide - 16;
  tip.style.left = `${Math.max(8, Math.min(beside, innerWidth - wide - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(top - tall / 3, innerHeight - tall - 8))}px`;
};

const panelOf = (metric, rows, height) => {
  const result = score(rows);
  const canvas = make("canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${called("metric", metric)}: predicted against measured, ${rows.length} points, median error ${share(result.median)}; arrow keys walk through them, the furthest off first`);
  const box = make("figure", { className: "panel" },
    make("figcaption", {}, make("h3", { textContent: called("metric", metric) }), make("p", { textContent: `${number(result.rows)} rows · median error ${share(result.median)} · bias ${share(result.bias, true)} · coverage ${share(result.coverage)}` })),
    make("div", { className: "plot" }, canvas));
  at("panels").append(box);
  let panel, seen = null, step = -1;
  const ranked = [...rows].sort((a, b) => Math.abs(Math.log(ratio(b))) - Math.abs(Math.log(ratio(a))));
  const redraw = () => { panel = scatter(canvas, metric, rows, height); if (seen !== null) highlight(panel, seen); };
  const nearest = (event) => {
    const frame = canvas.getBoundingClientRect(), left = event.clientX - frame.left, top = event.clientY - frame.top;
    let best = null, least = 14 ** 2;
    for (const row of rows) {
      const away = (panel.x(data.measured[row]) - left) ** 2 + (panel.y(data.predicted[row]) - top) ** 2;
      if (away < least) { least = away; best = row; }
    }
    return best;
  };
  const look = (row, left, top, pin = false) => {
    if (row !== seen) { seen = row; redraw(); }
    if (row === null) tip.hidden = true; else placeTip(row, left, top, pin);
  };
  canvas.addEventListener("pointermove", (event) => { if (pinned === null) look(nearest(event), event.clientX, event.clientY); });
  canvas.addEventListener("pointerleave", () => { if (pinned === null) look(null); });
  canvas.addEventListener("click", (event) => {
    const row = nearest(event);
    unpin();
    look(row, event.clientX, event.clientY, row !== null);
    pinned = row;
    event.stopPropagation();
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    step = Math.min(Math.max(step + move, 0), ranked.length - 1);
    const frame = canvas.getBoundingClientRect();
    pinned = ranked[step];
    look(pinned, frame.left + panel.x(data.measured[pinned]), frame.top + panel.y(data.predicted[pinned]), true);
  });
  redraw();
};

const histogram = (rows) => {
  const [pen, width, height] = surface(at("histogram"), 210);
  const left = 8, right = 8, top = 18, bottom = 36, ends = 2, bins = 48, counts = new Array(bins).fill(0);
  for (const row of rows) counts[Math.min(Math.max(Math.floor((Math.log2(ratio(row)) + ends) / (2 * ends) * bins), 0), bins - 1)]++;
  const most = Math.max(...counts, 1), x = (power) => left + (power + ends) / (2 * ends) * (width - left - right);
  pen.fillStyle = colour("good"); pen.globalAlpha = 0.13;
  pen.fillRect(x(Math.log2(1 - data.near)), top, x(Math.log2(1 + data.near)) - x(Math.log2(1 - data.near)), height - top - bottom);
  pen.globalAlpha = 1; pen.fillStyle = colour("c0");
  counts.forEach((many, place) => {
    const start = x(-ends + place * 2 * ends / bins), tall = many / most * (height - top - bottom);
    pen.fillRect(start + 0.5, height - bottom - tall, (width - left - right) / bins - 1, tall);
  });
  pen.fillStyle = colour("muted"); pen.textBaseline = "top";
  for (const [power, words] of [[-2, "÷4 and less"], [-1, "÷2"], [0, "exact"], [1, "×2"], [2, "×4 and more"]]) {
    pen.textAlign = power === -2 ? "left" : power === 2 ? "right" : "center";
    pen.fillText(words, x(power), height - bottom + 6);
  }
  pen.textAlign = "center"; pen.fillText("predicted over measured", x(0), height - 14);
  if (!rows.length) return;
  const middle = Math.log2(quantile(rows.map(ratio).sort((a, b) => a - b), 0.5));
  pen.strokeStyle = colour("ink"); pen.lineWidth = 1.5; pen.beginPath(); pen.moveTo(x(middle), top); pen.lineTo(x(middle), height - bottom); pen.stroke();
  pen.fillStyle = colour("ink"); pen.textBaseline = "bottom"; pen.fillText(`median ${share(2 ** middle - 1, true)}`, Math.min(Math.max(x(middle), 60), width - 60), top - 2);
};

const bar = (value, band, rows) => {
  const box = make("span", { className: "bar" });
  if (value === null) return box;
  const right = make("i", { className: "band" }), fill = make("i", { className: rows >= data.many && (value < band[0] || value > band[1]) ? "off" : "" });
  right.style.left = `${100 * band[0]}%`; right.style.width = `${100 * (band[1] - band[0])}%`;
  fill.style.width = `${100 * value}%`;
  box.append(fill, right);
  return box;
};
const table = (rows) => {
  const groups = groupsOf(rows, state.group);
  at("live-key").textContent = at("by-group").selectedOptions[0].textContent;
  const lines = [["all shown", rows], ...groups.slice(0, SHOWN)].map(([value, each], place) => {
    const found = score(each), band = place ? data.large : data.overall;
    const button = make("button", { type: "button", textContent: place ? called(state.group, value) : value, disabled: !place });
    button.addEventListener("click", () => only(value));
    const dot = swatch(value);
    if (!place) dot.style.background = "none";
    const head = make("th", { scope: "row" }, dot, button);
    const cells = [number(found.rows), share(found.median), share(found.ninety), share(found.bias, true), share(found.near), share(found.coverage)];
    return make("tr", {}, head, ...cells.map((words) => make("td", { className: "n", textContent: words })), make("td", { className: "bars" }, bar(found.coverage, band, found.rows)));
  });
  at("live").replaceChildren(...lines);
  at("live-more").textContent = groups.length > SHOWN ? `${groups.length - SHOWN} smaller groups are not listed; filter to see them.` : "";
};

const swatch = (value) => {
  const dot = make("i", { className: "swatch" });
  dot.style.background = `var(--${shade(value)})`;
  return dot;
};
const only = (value) => set({ [state.group]: state[state.group] === value ? "" : value });
const legend = (groups) => {
  const chips = groups.slice(0, COLOURS).map(([value]) => {
    const chip = make("button", { type: "button" }, swatch(value), called(state.group, value));
    chip.setAttribute("aria-pressed", String(state[state.group] === value));
    chip.addEventListener("click", () => only(value));
    return chip;
  });
  const others = groups.length - COLOURS;
  at("legend").replaceChildren(...chips, ...(others > 0 ? [make("span", {}, swatch(null), `${others} others`)] : []));
};

const draw = () => {
  controls();
  const all = matching(), rows = all.filter(good);
  const ranked = groupsOf(matching(state.group).filter(good), state.group);
  shades = new Map(ranked.slice(0, COLOURS).map(([value], place) => [value, `c${place}`]));
  legend(ranked);
  at("panels").replaceChildren();
  const panels = groupsOf(rows, "metric");
  at("panels").classList.toggle("one", panels.length === 1);
  for (const [metric, each] of panels) panelOf(metric, each, panels.length === 1 ? Math.min(560, Math.max(340, innerHeight * 0.62)) : 330);
  if (!rows.length) at("panels").append(make("p", { className: "about", textContent: "No row matches." }));
  const unanswered = all.length - rows.length;
  at("counted").textContent = `${number(rows.length)} of ${number(TOTAL)} rows${unanswered ? `; ${number(unanswered)} without a prediction` : ""}`;
  table(rows);
  histogram(rows);
};

for (const key of KEYS) at(`by-${key}`).addEventListener("change", (event) => set({ [key]: event.target.value }));
at("by-group").addEventListener("change", (event) => set({ group: event.target.value }));
at("reset").addEventListener("click", () => set({ find: "", ...Object.fromEntries(KEYS.map((key) => [key, ""])) }));
let waiting;
at("find").addEventListener("input", (event) => { clearTimeout(waiting); waiting = setTimeout(() => set({ find: event.target.value }), 150); });
addEventListener("hashchange", () => { readHash(); unpin(); draw(); });
addEventListener("keydown", (event) => { if (event.key === "Escape") { unpin(); draw(); } });
document.addEventListener("click", (event) => { if (!tip.contains(event.target)) unpin(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
at("explorer").hidden = false;
readHash();
draw();
let wide = at("panels").clientWidth;
new ResizeObserver(() => { if (at("panels").clientWidth !== wide) { wide = at("panels").clientWidth; draw(); } }).observe(at("panels"));
document.documentElement.dataset.charts = "drawn";
