"use strict";
(() => {
  // Draws the panels on one time axis. Times are seconds from the period's start.
  const D = JSON.parse(document.getElementById("data").textContent);
  const SPAN = D.to - D.from, LEAST = Math.min(30, SPAN);
  const GUTTER = 52, RIGHT = 10, TOP = 8, HEIGHT = { step: 104, line: 104, stack: 104, bars: 104, marks: 66 };
  const DASHES = ["", "7 3", "2 2.5", "9 3 2 3", "4 2", "1 2 5 2", "12 4", "5 2 1 2 1 2"];
  const HATCHES = ["", "M0 8L8 0", "M0 4H8", "M0 0L8 8", "M4 0V8", "M0 8L8 0M0 0L8 8", "M0 4H8M4 0V8", "M2 2h2v2h-2z"];
  let view = [0, SPAN], cursor = null, drag = null, chosen = null, width = 0, waiting = false;
  const el = (id) => document.getElementById(id);
  const host = el("panels"), plots = el("plots"), readout = el("readout");

  function node(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "line", "rect", "circle", "text", "clipPath", "defs", "pattern", "title"];
    const made = svg.includes(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // numbers and times

  const digits = (v, n = 3) => String(Number(v.toPrecision(n)));
  function long(s) {
    if (s < 60) return `${digits(s, 2)} s`;
    if (s < 5400) return `${Math.round(s / 60)} min`;
    return s < 172800 ? `${digits(s / 3600)} h` : `${digits(s / 86400)} d`;
  }
  function size(v) {
    const place = Math.min(3, Math.floor(Math.log2(Math.max(1, Math.abs(v))) / 10));
    return `${digits(v / 1024 ** place)} ${["B", "KiB", "MiB", "GiB"][place]}`;
  }
  const FORMS = {
    share: (v) => `${digits(v * 100)} %`, bytes: size, seconds: long, px: (v) => `${v} px`,
    ms: (v) => (v < 1000 ? `${digits(v)} ms` : `${digits(v / 1000)} s`), "degrees Celsius": (v) => `${digits(v)} °C`,
    "0 or 1": (v) => (v === 1 ? "yes" : v === 0 ? "no" : digits(v)),
  };
  const form = (panel) => FORMS[panel.form] || ((v) => digits(v));
  function local(t) {
    let offset = 0;
    for (const [since, seconds] of D.zone) if (since <= t) offset = seconds;
    return new Date((D.from + t + offset) * 1000);
  }
  const two = (n) => String(n).padStart(2, "0");
  const DAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
  const day = (d) => `${DAYS[d.getUTCDay()]} ${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())}`;
  const hour = (d) => `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`;
  const stamp = (t) => { const d = local(t); return `${day(d)} ${hour(d)}:${two(d.getUTCSeconds())}`; };

  const inner = () => width - GUTTER - RIGHT;
  const x = (t) => GUTTER + (t - view[0]) / (view[1] - view[0]) * inner();
  const time = (px) => view[0] + (px - GUTTER) / inner() * (view[1] - view[0]);
  const fixed = (v) => Math.round(v * 10) / 10;
  const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];

  function timeTicks() {
    const wanted = (view[1] - view[0]) / Math.max(2, inner() / 78);
    const step = STEPS.find((s) => s >= wanted) || STEPS[STEPS.length - 1], ticks = [];
    const lead = (t) => (local(t).getTime() / 1000 - (D.from + t)) + D.from;  // local seconds are t + lead
    let t = Math.ceil((view[0] + lead(view[0])) / step) * step - lead(view[0]);
    for (; t <= view[1]; t += step) ticks.push(t);
    return [ticks, step];
  }

  // the panels, built once

  const M = D.first.map((first, i) => (first + D.last[i]) / 2);
  const BREAK = D.first.map((first, i) => i > 0 && Math.abs(first - D.last[i - 1]) > 10);
  const rows = (id, pick) => [...document.querySelectorAll(`#${id} tbody tr`)].map(pick);
  const EVENTS = rows("events", (tr) => ({ t: Number(tr.dataset.t), level: tr.dataset.l, tr })).sort((a, b) => a.t - b.t);
  const SLICES = new Map(rows("slices", (tr) => [Number(tr.dataset.i), tr]));

  function patterns() {
    const defs = node("defs");
    HATCHES.forEach((d, i) => defs.append(node("pattern", { id: `p${i}`, class: `k${i}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      node("rect", { class: "ground", width: 8, height: 8 }), node("path", { class: "hatch", d, "stroke-width": 1.4 }))));
    defs.append(node("pattern", { id: "nothing", width: 6, height: 6, patternUnits: "userSpaceOnUse" },
      node("rect", { width: 6, height: 6 }), node("path", { d: "M0 6L6 0", fill: "none" })));
    document.body.prepend(node("svg", { width: 0, height: 0, "aria-hidden": "true" }, defs));
  }

  function bounds(panel) {
    const all = [];
    for (const s of panel.series || []) {
      for (const list of [s.v, s.lo, s.hi]) if (list) for (const v of list) if (v !== null) all.push(v);
      if (s.bars) for (const b of s.bars) all.push(b[2] || 0, b[3] || 0);
    }
    let [low, high] = panel.range || [null, null];
    const least = Math.min(...all), most = Math.max(...all);
    if (low === null) low = panel.range || panel.kind !== "step" ? least - (most - least) * 0.08 : Math.max(0, least - (most - least) * 0.25);
    if (least >= 0) low = Math.max(0, low);
    if (high === null || high === undefined) high = most + (most - low) * 0.08;
    if (high - low < 1e-9) high = low + (Math.abs(low) || 1) * 0.1;
    return [low, high];
  }

  function valueTicks(panel, low, high) {
    if (panel.ticks && panel.ticks.length > 1) return panel.ticks;
    if (panel.form === "0 or 1") return [0, 1];
    const inSeconds = high > 172800 ? 86400 : high > 7200 ? 3600 : high > 120 ? 60 : 1;
    const base = panel.form === "bytes" ? 1024 ** Math.floor(Math.log2(Math.max(1, high)) / 10) : panel.form === "seconds" ? inSeconds : 1;
    const raw = (high - low) / base / 2.6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw) * base, ticks = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) ticks.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return ticks;
  }

  function key(panel, i) {  // what stands for a series in the legend
    const s = panel.series[i], svg = node("svg", { width: 26, height: 12, "aria-hidden": "true", class: s.alert ? "kalert" : `k${i % 8}` });
    if (panel.kind === "stack" || panel.kind === "bars") svg.append(node("rect", { x: 1, y: 1, width: 24, height: 10, rx: 2, fill: `url(#p${i % 8})` }));
    else svg.append(node("path", { class: "line", d: "M0 6H26", "stroke-dasharray": DASHES[s.dash ?? i % 8] }));
    return svg;
  }

  function build(panel, place) {
    const head = node("div", { class: "head" }, node("h3", {}, panel.title, " ", node("span", { class: "unit" }, panel.unit)));
    const box = node("div", { class: "panel", id: `panel-${place}`, "data-panel": panel.id }, head);
    const empty = panel.kind === "marks" ? !EVENTS.length : !panel.series.length;
    host.append(box);
    if (empty) return void box.append(node("p", { class: "empty" }, panel.empty)) || null;
    const made = { ...panel, height: HEIGHT[panel.kind], hidden: new Set(), values: [] };
    made.svg = node("svg", { class: "plot", height: made.height, role: "img", "aria-label": `${panel.title}, ${panel.unit}` });
    if (panel.kind !== "marks") {
      const legend = node("div", { class: "legend" });
      panel.series.forEach((s, i) => {
        const value = node("span", { class: "value" }), button = node("button", { type: "button", "aria-pressed": "true", title: "Show or hide" }, key(panel, i), node("span", {}, s.name), value);
        button.addEventListener("click", () => {
          const shown = made.hidden.has(i);
          made.hidden[shown ? "delete" : "add"](i);
          button.setAttribute("aria-pressed", String(shown));
          draw();
        });
        made.values.push(value);
        legend.append(button);
      });
      if (panel.more) legend.append(node("span", { class: "note" }, `${panel.more} more in the table`));
      box.append(legend);
      [made.low, made.high] = bounds(panel);
      made.yticks = valueTicks(panel, made.low, made.high);
    }
    box.append(made.svg);
    return made;
  }

  // drawing

  function visible() {  // rows that the view shows, and one more on either side
    let a = 0, b = M.length - 1;
    while (a < b && D.last[a] < view[0]) a++;
    while (b > a && D.first[b] > view[1]) b--;
    return [Math.max(0, a - 1), Math.min(M.length - 1, b + 1)];
  }

  function lines(panel, s, y) {
    const [a, b] = visible();
    let d = "", band = [], bands = "";
    const flush = () => {
      if (band.length > 1) bands += `M${band.map(([p, , h]) => `${p} ${h}`).join("L")}L${band.reverse().map(([p, l]) => `${p} ${l}`).join("L")}Z`;
      band = [];
    };
    for (let i = a, open = false; i <= b; i++) {
      const v = s.v[i];
      if (v === null || v === undefined) { open = false; flush(); continue; }
      if (BREAK[i]) { open = false; flush(); }
      const at = (t) => { if (s.hi) band.push([fixed(x(t)), fixed(y(s.lo[i] ?? v)), fixed(y(s.hi[i] ?? v))]); };
      const ends = i === b || s.v[i + 1] === null || s.v[i + 1] === undefined || BREAK[i + 1];
      if (!open) { d += `M${fixed(x(D.first[i]))} ${fixed(y(v))}`; at(D.first[i]); }
      d += `L${fixed(x(M[i]))} ${fixed(y(v))}`;
      at(M[i]);
      if (ends) { d += `H${fixed(Math.max(x(D.last[i]), x(D.first[i]) + 1.5))}`; at(D.last[i]); }
      open = true;
    }
    flush();
    return [d, bands];
  }

  function steps(s, y) {
    let d = "", last = null;
    for (let i = 0; i < s.t.length; i++) {
      const v = s.v[i];
      if ((s.t[i + 1] ?? s.t[i]) < view[0]) { last = null; if (i + 1 < s.t.length) continue; }
      if (s.t[i] > view[1]) { if (last !== null) d += `H${fixed(x(s.t[i]))}`; break; }
      const px = fixed(x(s.t[i]));
      if (v === null) { if (last !== null) d += `H${px}`; last = null; continue; }
      d += last === null ? `M${px} ${fixed(y(v))}` : `H${px}V${fixed(y(v))}`;
      last = v;
    }
    return d;
  }

  function stacks(panel, y, into) {
    const [a, b] = visible(), base = new Map();
    panel.series.forEach((s, i) => {
      if (panel.hidden.has(i)) return;
      let d = "", top = "", under = "";
      const flush = () => { if (top) d += `M${top.slice(1)}${under}Z`; top = under = ""; };
      for (let r = a; r <= b; r++) {
        if (BREAK[r]) flush();
        if (s.v[r] === null || s.v[r] === undefined) { flush(); continue; }
        const from = base.get(r) || 0, to = from + s.v[r], left = fixed(x(D.first[r])), right = fixed(x(D.last[r]));
        base.set(r, to);
        top += `L${left} ${fixed(y(to))}L${right} ${fixed(y(to))}`;
        under = `L${right} ${fixed(y(from))}L${left} ${fixed(y(from))}${under}`;
      }
      flush();
      into.append(node("path", { class: "area", d, fill: `url(#p${i % 8})`, "data-series": i }));
    });
  }

  function bars(panel, y, into) {
    panel.series.forEach((s, i) => {
      if (panel.hidden.has(i)) return;
      let ticks = "";
      for (const [from, to, cost, measured, place] of s.bars) {
        if (to < view[0] || from > view[1]) continue;
        const left = x(from), w = Math.max(1.5, x(to) - left - (x(to) - left > 8 ? 1 : 0)), top = y(cost ?? panel.high * 0.04);
        const bar = node("rect", { x: fixed(left), y: fixed(top), width: fixed(w), height: fixed(Math.max(1, y(0) - top)), fill: `url(#p${i % 8})`, "data-i": place });
        const cells = SLICES.get(place)?.cells;
        if (cells) bar.append(node("title", {}, `${cells[2].textContent}, ${cells[3].textContent}: ${cells[5].textContent}; cost ${cells[6].textContent}, measured ${cells[7].textContent}`));
        into.append(bar);
        if (measured !== null) ticks += `M${fixed(left)} ${fixed(y(measured))}h${fixed(w)}`;
      }
      into.append(node("path", { class: "measured", d: ticks }));
    });
  }

  const LANES = ["error", "warning", "info"];
  const SHAPES = { info: (p, y) => `M${p - 3} ${y}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0`, warning: (p, y) => `M${p - 4} ${y + 4}L${p} ${y - 4}L${p + 4} ${y + 4}Z`, error: (p, y) => `M${p - 4.5} ${y}L${p} ${y - 4.5}L${p + 4.5} ${y}L${p} ${y + 4.5}Z` };
  function marks(panel, into) {
    LANES.forEach((level, lane) => {
      const y = TOP + 8 + lane * 19;
      into.append(node("line", { class: "grid", x1: GUTTER, x2: width - RIGHT, y1: y, y2: y }));
      panel.svg.append(node("text", { x: GUTTER - 6, y: y + 4, "text-anchor": "end" }, level));
      for (const event of EVENTS) if (event.level === level && event.t >= view[0] && event.t <= view[1]) {
        into.append(node("path", { class: `mark-${level}`, d: SHAPES[level](fixed(x(event.t)), y) }, node("title", {}, [...event.tr.cells].map((c) => c.textContent).join("  "))));
      }
    });
  }

  function drawPanel(panel, ticks) {
    const svg = panel.svg, bottom = panel.height - 6, y = (v) => bottom - (v - panel.low) / (panel.high - panel.low) * (bottom - TOP);
    svg.replaceChildren();
    svg.setAttribute("width", width);
    const clip = `clip-${panel.id}`.replace(/[^\w-]/g, "_");
    svg.append(node("clipPath", { id: clip }, node("rect", { x: GUTTER, y: 0, width: Math.max(0, inner()), height: panel.height })));
    const body = node("g", { "clip-path": `url(#${clip})` });
    for (const t of ticks) body.append(node("line", { class: "grid", x1: fixed(x(t)), x2: fixed(x(t)), y1: 0, y2: bottom }));
    for (const [a, b] of D.gaps) if (b > view[0] && a < view[1]) body.append(node("rect", { class: "gap", x: fixed(x(Math.max(a, view[0]))), y: 0, width: fixed(x(Math.min(b, view[1])) - x(Math.max(a, view[0]))), height: bottom }, node("title", {}, "Nothing was recorded.")));
    if (panel.untold > view[0]) {
      const end = fixed(x(Math.min(panel.untold, view[1])) - GUTTER), middle = GUTTER + end / 2;
      body.append(node("rect", { class: "gap", x: GUTTER, y: 0, width: end, height: bottom }));
      body.append(node("text", { x: middle, y: bottom / 2, "text-anchor": "middle" }, end > 200 ? "too many to show: report a shorter period" : ""));
    }
    if (panel.kind === "marks") marks(panel, body);
    else {
      let above = Infinity;
      for (const v of panel.yticks) {
        const at = fixed(y(v));
        svg.append(node("line", { class: v === panel.low ? "base" : "grid", x1: GUTTER, x2: width - RIGHT, y1: at, y2: at }));
        if (above - at > 11) { svg.append(node("text", { x: GUTTER - 6, y: Math.max(9, at + 4), "text-anchor": "end" }, form(panel)(v))); above = at; }
      }
      if (panel.kind === "stack") stacks(panel, y, body);
      else if (panel.kind === "bars") bars(panel, y, body);
      else panel.series.map((s, i) => [s, i]).reverse().forEach(([s, i]) => {  // the first lies on top
        if (panel.hidden.has(i)) return;
        const group = node("g", { class: s.alert ? "kalert" : `k${i % 8}` }), dash = DASHES[s.dash ?? i % 8];
        const [d, band] = panel.kind === "step" ? [steps(s, y), ""] : lines(panel, s, y);
        if (band) group.append(node("path", { class: "band", d: band }));
        group.append(node("path", { class: "line", d, "stroke-dasharray": dash, "data-series": i }));
        body.append(group);
      });
    }
    panel.choice = node("rect", { class: "chosen", y: 0, height: panel.height });
    panel.mark = node("line", { class: "cursor", y1: 0, y2: bottom });
    body.append(panel.choice, panel.mark);
    svg.append(body);
  }

  function drawAxis(ticks, step) {
    const svg = el("axis").querySelector("svg");
    svg.replaceChildren();
    svg.setAttribute("width", width);
    const start = day(local(view[0])).slice(4);
    svg.append(node("text", { x: 0, y: 21 }, start));
    let until = start.length * 6.6 + 6;
    ticks.forEach((t) => {
      const d = local(t), today = day(d), midnight = d.getUTCHours() === 0 && d.getUTCMinutes() === 0;
      const label = step >= 86400 || midnight ? today : step < 60 ? `${hour(d)}:${two(d.getUTCSeconds())}` : hour(d), px = x(t);
      const half = label.length * 3.3;
      svg.append(node("line", { class: "base", x1: fixed(px), x2: fixed(px), y1: 24, y2: 30 }));
      if (px - half < until || px + half > width) return;  // no room for it
      until = px + half + 6;
      svg.append(node("text", { x: fixed(px), y: 21, "text-anchor": "middle" }, label));
    });
  }

  function draw() {
    waiting = false;
    width = Math.floor(host.clientWidth);
    if (width < 80) return;
    const [ticks, step] = timeTicks();
    drawAxis(ticks, step);
    for (const panel of made) drawPanel(panel, ticks);
    showCursor();
    plots.dataset.from = fixed(view[0]);
    plots.dataset.to = fixed(view[1]);
    el("tools").querySelector("[data-do=reset]").disabled = view[0] <= 0 && view[1] >= SPAN;
  }
  const later = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };

  // the marker and what it reads

  function at(panel, s, t) {
    const f = form(panel);
    if (s.t) {
      let v = null;
      for (let i = 0; i < s.t.length && s.t[i] <= t; i++) v = s.v[i];
      return v === null ? "–" : f(v);
    }
    if (s.bars) {
      const bar = s.bars.find(([from, to]) => from <= t && t <= to);
      return bar ? SLICES.get(bar[4])?.cells[5].textContent + (bar[2] === null ? "" : `, cost ${f(bar[2])}`) : "–";
    }
    const r = D.first.findIndex((first, i) => first <= t && t <= D.last[i]), v = r < 0 ? null : s.v[r];
    if (v === null || v === undefined) return "–";
    if (!s.hi || s.hi[r] === null || (s.hi[r] === v && s.lo[r] === v)) return f(v);
    return panel.read === "p95" ? `${f(v)}, 95 % ${f(s.hi[r])}` : `${f(v)} (${f(s.lo[r])} to ${f(s.hi[r])})`;
  }

  function showCursor() {
    const shown = cursor !== null && cursor >= view[0] && cursor <= view[1];
    for (const panel of made) {
      panel.choice.setAttribute("x", chosen ? fixed(Math.min(...chosen)) : 0);
      panel.choice.setAttribute("width", chosen ? fixed(Math.abs(chosen[1] - chosen[0])) : 0);
      panel.mark.setAttribute("visibility", shown ? "visible" : "hidden");
      if (shown) for (const end of ["x1", "x2"]) panel.mark.setAttribute(end, fixed(x(cursor)));
      panel.values.forEach((value, i) => { value.textContent = shown ? at(panel, panel.series[i], cursor) : ""; });
    }
    readout.textContent = shown ? stamp(cursor) : `${long(view[1] - view[0])} shown`;
  }

  // moving about

  function show(from, to) {
    const length = Math.min(SPAN, Math.max(LEAST, to - from));
    from = Math.max(0, Math.min(from, SPAN - length));
    view = [from, from + length];
    later();
  }
  const zoom = (factor, t = cursor ?? (view[0] + view[1]) / 2) => show(t - (t - view[0]) * factor, t + (view[1] - t) * factor);
  const move = (share) => show(view[0] + share * (view[1] - view[0]), view[1] + share * (view[1] - view[0]));
  const reset = () => show(0, SPAN);
  const DO = { in: () => zoom(.5), out: () => zoom(2), earlier: () => move(-.4), later: () => move(.4), reset };

  const place = (event) => event.clientX - host.getBoundingClientRect().left;
  const inside = (px) => Math.max(GUTTER, Math.min(width - RIGHT, px));
  const fingers = new Map();
  let pinch = null;

  host.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("svg.plot") || event.button > 0) return;
    fingers.set(event.pointerId, place(event));
    event.target.closest("svg.plot").setPointerCapture(event.pointerId);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()];
      pinch = { a: time(a), b: time(b) };
      drag = chosen = null;
    } else drag = { from: place(event), view: view.slice(), pan: event.shiftKey || event.pointerType === "touch", on: event.target };
  });
  host.addEventListener("pointermove", (event) => {
    const px = place(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, px);
    if (pinch && fingers.size === 2) {
      const [a, b] = [...fingers.values()], scale = (pinch.b - pinch.a) / ((b - a) || 1);
      if (scale > 0) show(pinch.a - (a - GUTTER) * scale, pinch.a - (a - GUTTER) * scale + inner() * scale);
      return;
    }
    if (drag && drag.pan) {
      const moved = (drag.from - px) / inner() * (drag.view[1] - drag.view[0]);
      if (view[1] - view[0] < SPAN) show(drag.view[0] + moved, drag.view[1] + moved);
      else { cursor = time(inside(px)); showCursor(); }
      return;
    }
    if (drag) chosen = [inside(drag.from), inside(px)];
    if (event.target.closest("svg.plot")) { cursor = time(inside(px)); showCursor(); }
  });
  function ended(event) {
    const px = place(event), was = drag;
    fingers.delete(event.pointerId);
    if (fingers.size < 2) pinch = null;
    drag = null;
    if (!was) return;
    if (Math.abs(px - was.from) < 5) { cursor = time(inside(px)); pick(was.on, px); }
    else if (!was.pan && event.type === "pointerup") show(time(Math.min(...chosen)), time(Math.max(...chosen)));
    chosen = null;
    later();
  }
  host.addEventListener("pointerup", ended);
  host.addEventListener("pointercancel", ended);
  host.addEventListener("pointerleave", () => { if (!drag) { cursor = null; showCursor(); } });
  host.addEventListener("dblclick", (event) => { if (event.target.closest("svg.plot")) reset(); });
  host.addEventListener("wheel", (event) => {
    if (!event.target.closest("svg.plot")) return;
    if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(Math.exp(event.deltaY * .0025), time(inside(place(event)))); }
    else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) { event.preventDefault(); move((event.deltaX || event.deltaY) / 900); }
  }, { passive: false });
  host.addEventListener("keydown", (event) => {
    if (event.target.closest("button") && event.key !== "Escape") return;
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (side && event.shiftKey) move(side * .25);
    else if (side) { cursor = Math.max(view[0], Math.min(view[1], (cursor ?? (view[0] + view[1]) / 2) + side * (view[1] - view[0]) / 60)); showCursor(); }
    else if (event.key === "+" || event.key === "=") zoom(.5);
    else if (event.key === "-") zoom(2);
    else if (event.key === "0" || event.key === "Escape" || event.key === "Home") reset();
    else return;
    event.preventDefault();
  });
  el("tools").addEventListener("click", (event) => DO[event.target.dataset.do]?.());

  function pick(on, px) {  // a slice or an event that is pressed is shown in its table
    const bar = on.closest("rect[data-i]"), far = (event) => Math.abs(x(event.t) - px);
    let tr = bar ? SLICES.get(Number(bar.dataset.i)) : null;
    if (!tr && on.closest(".panel").dataset.panel === "events") {
      tr = EVENTS.filter((event) => far(event) < 8).sort((a, b) => far(a) - far(b))[0]?.tr;
    }
    document.querySelectorAll("tr.picked").forEach((old) => old.classList.remove("picked"));
    if (tr) {
      tr.classList.add("picked");
      const scroll = tr.closest(".scroll");
      scroll.scrollTop = tr.offsetTop - scroll.clientHeight / 2;
    }
  }

  patterns();
  plots.hidden = false;
  el("plain").hidden = true;
  el("axis").append(node("svg", { height: 30, "aria-hidden": "true" }));
  const made = D.panels.map(build).filter(Boolean);
  new ResizeObserver(later).observe(host);
  addEventListener("beforeprint", draw);
  draw();
})();
