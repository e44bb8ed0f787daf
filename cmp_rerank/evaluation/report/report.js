"use strict";
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const curves = JSON.parse(document.getElementById("curve-data").textContent);
  const $ = (id) => document.getElementById(id);
  const STEP = 100; // rows that are added to the list at a time
  const N = D.ids.length;
  const others = D.systems.map((_, i) => i).filter((i) => i !== D.baseline);
  const state = { measure: 0, system: others[0], filter: "all", sort: "loss", search: "", order: [], drawn: 0 };

  // --- small helpers -------------------------------------------------------------------------------------
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  function shape(parent, tag, attributes = {}, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }
  const signed = (x) => (x > 0 ? "+" : x < 0 ? "\u2212" : "\u00b1") + Math.abs(x).toFixed(4);
  const kind = (x) => (x > 0 ? "gain" : x < 0 ? "loss" : "same");
  const baseValue = (q) => D.values[D.baseline][state.measure][q];
  const value = (q) => D.values[state.system][state.measure][q];
  const difference = (q) => {
    const x = value(q) - baseValue(q);
    return Math.abs(x) < 5e-6 ? 0 : x; // values have five digits here
  };
  const level = () => D.levels[state.measure]; // the grade from which on the measure takes a document for relevant
  const relevant = () => (level() > 1 ? `relevant (grade ${level()} and above)` : "relevant");
  const label = (q) => D.texts[q] || D.ids[q];

  // --- packed chunks: unpacked when first needed ---------------------------------------------------------
  const cache = new Map();
  function chunk(name, index) {
    const key = name + index;
    if (!cache.has(key)) {
      const bytes = Uint8Array.from(atob(D[name][index]), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      cache.set(key, new Response(stream).json());
    }
    return cache.get(key);
  }
  const detail = async (q) => (await chunk("detail", Math.floor(q / D.queriesPerChunk)))[q % D.queriesPerChunk];
  const doc = async (n) => (await chunk("docs", Math.floor(n / D.docsPerChunk)))[n % D.docsPerChunk];

  // --- plots ---------------------------------------------------------------------------------------------
  function tip(event, text) {
    const box = $("tip");
    box.hidden = !text;
    if (!text) return;
    box.textContent = text;
    const left = Math.min(event.clientX + 12, window.innerWidth - box.offsetWidth - 8);
    const top = event.clientY + 18 + box.offsetHeight > window.innerHeight ? event.clientY - 18 - box.offsetHeight : event.clientY + 18;
    box.style.left = Math.max(4, left) + "px";
    box.style.top = top + "px";
  }
  const describe = (q) => `${label(q)}: ${baseValue(q).toFixed(4)} \u2192 ${value(q).toFixed(4)} (${signed(difference(q))})`;
  // One unit of a drawing is one pixel, so that text has the same size on a phone.
  function canvas(id, height) {
    const svg = $(id), width = Math.max(240, svg.clientWidth || svg.parentElement.clientWidth);
    svg.setAttribute("viewBox", `0 0 ${width} ${height(width)}`);
    svg.replaceChildren();
    return [svg, width, height(width)];
  }
  function follow(svg, find, mark) {
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return find(point.x, point.y);
    };
    svg.onpointermove = (event) => { const q = at(event); mark(q); tip(event, q === undefined ? "" : describe(q)); };
    svg.onpointerleave = (event) => { mark(undefined); tip(event, ""); };
    svg.onclick = (event) => { const q = at(event); if (q !== undefined) { tip(event, ""); openQuery(q); } };
    svg.classList.add("clickable");
  }

  function drawBars() {
    const [svg, w, h] = canvas("bars", (width) => (width > 500 ? 320 : 220));
    const left = 46, right = w - 4, top = 8, bottom = h - 8;
    const order = [...Array(N).keys()].sort((a, b) => difference(b) - difference(a) || a - b);
    const high = Math.max(0, difference(order[0])), low = Math.min(0, difference(order[N - 1]));
    const span = Math.max(high - low, 1e-6), width = (right - left) / N;
    const y = (x) => top + ((high - x) / span) * (bottom - top);
    const zero = y(0);
    const raw = span / 7, power = 10 ** Math.floor(Math.log10(raw));
    const tick = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    for (let k = Math.ceil(low / tick); k * tick <= high + 1e-9; k++) {
      const x = k * tick;
      shape(svg, "path", { class: k ? "axis" : "base", d: `M${left} ${y(x)}H${right}` });
      const digits = Math.max(0, -Math.floor(Math.log10(tick)));
      shape(svg, "text", { x: left - 6, y: y(x) + 4, "text-anchor": "end" }, k ? (k > 0 ? "+" : "\u2212") + Math.abs(x).toFixed(digits) : "0");
    }
    const paths = { gain: "", loss: "" };
    const gap = width > 6 ? 1 : 0;
    order.forEach((q, i) => {
      const d = difference(q);
      if (d) paths[kind(d)] += `M${(left + i * width).toFixed(2)} ${zero}V${y(d).toFixed(2)}h${Math.max(width - gap, 0.4).toFixed(2)}V${zero}Z`;
    });
    for (const name of ["gain", "loss"]) shape(svg, "path", { class: name, d: paths[name] });
    const cursor = shape(svg, "path", { class: "cursor" });
    follow(svg, (x) => order[Math.floor((x - left) / width)], (q) => {
      const x = left + (order.indexOf(q) + 0.5) * width;
      cursor.setAttribute("d", q === undefined ? "" : `M${x} ${top}V${bottom}`);
    });
    const count = { gain: 0, loss: 0, same: 0 };
    for (const q of order) count[kind(difference(q))] += 1;
    $("bars-caption").textContent =
      `${D.measures[state.measure]}, ${D.systems[state.system]} minus ${D.systems[D.baseline]}: ${count.gain} better, ${count.same} equal, ${count.loss} worse`;
  }

  function drawScatter() {
    const [svg, w, h] = canvas("scatter", (width) => Math.min(width, 340));
    const left = 40, right = w - 14, top = 8, bottom = h - 36;
    let high = 0, low = 0;
    for (let q = 0; q < N; q++) {
      high = Math.max(high, value(q), baseValue(q));
      low = Math.min(low, value(q), baseValue(q));
    }
    if (high > 0.6 && high <= 1) high = 1;
    if (high === low) high = low + 1;
    const x = (v) => left + ((v - low) / (high - low)) * (right - left);
    const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const v = low + part * (high - low);
      shape(svg, "path", { class: "axis", d: `M${left} ${y(v)}H${right}M${x(v)} ${top}V${bottom}` });
      const text = high - low > 20 ? v.toFixed(0) : v.toFixed(2);
      shape(svg, "text", { x: x(v), y: bottom + 15, "text-anchor": "middle" }, text);
      shape(svg, "text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, text);
    }
    shape(svg, "path", { class: "base", d: `M${x(low)} ${y(low)}L${x(high)} ${y(high)}` });
    shape(svg, "text", { x: (left + right) / 2, y: bottom + 32, "text-anchor": "middle" }, D.systems[D.baseline]);
    const paths = { gain: "", loss: "", same: "" };
    for (let q = 0; q < N; q++) paths[kind(difference(q))] += `M${x(baseValue(q)).toFixed(1)} ${y(value(q)).toFixed(1)}h0`;
    for (const name of ["same", "gain", "loss"]) shape(svg, "path", { class: "dots " + name, d: paths[name], style: `stroke-width:${N > 1000 ? 3.5 : 6}` });
    const cursor = shape(svg, "circle", { class: "cursor", r: 6, visibility: "hidden" });
    follow(svg, (px, py) => {
      let best, nearest = 12 * 12;
      for (let q = 0; q < N; q++) {
        const away = (x(baseValue(q)) - px) ** 2 + (y(value(q)) - py) ** 2;
        if (away < nearest) { nearest = away; best = q; }
      }
      return best;
    }, (q) => {
      cursor.setAttribute("visibility", q === undefined ? "hidden" : "visible");
      if (q !== undefined) { cursor.setAttribute("cx", x(baseValue(q))); cursor.setAttribute("cy", y(value(q))); }
    });
    $("scatter-caption").textContent = `${D.measures[state.measure]}: ${D.systems[state.system]} upwards, ${D.systems[D.baseline]} to the right; better above the line`;
  }

  function drawCurves() {
    const palette = ["--gain", "--loss", "--g3", "--soft"], dashes = ["none", "6 3", "2 3"], borders = ["solid", "dashed", "dotted"];
    for (const [title, series] of Object.entries(curves)) {
      const figure = make("figure", {}, make("figcaption", {}, make("h2", {}, title)));
      const legend = make("div", { class: "legend" });
      const points = Object.values(series).flat();
      const span = (i) => [Math.min(...points.map((p) => p[i])), Math.max(...points.map((p) => p[i]))];
      const [[x0, x1], [y0, y1]] = [span(0), span(1)];
      // Where all points have one place, it is the middle.
      const part = (v, low, high) => (high > low ? (v - low) / (high - low) : 0.5);
      const x = (v) => 48 + part(v, x0, x1) * 262, y = (v) => 170 - part(v, y0, y1) * 158;
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.setAttribute("viewBox", "0 0 320 195");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", title);
      for (const v of new Set([y0, (y0 + y1) / 2, y1])) {
        shape(svg, "path", { class: "axis", d: `M48 ${y(v)}H310` });
        shape(svg, "text", { x: 42, y: y(v) + 4, "text-anchor": "end" }, v.toPrecision(3));
      }
      for (const h of new Set([x0, (x0 + x1) / 2, x1])) {
        shape(svg, "text", { x: x(h), y: 188, "text-anchor": x0 === x1 ? "middle" : h === x0 ? "start" : h === x1 ? "end" : "middle" }, +h.toPrecision(4));
      }
      Object.entries(series).forEach(([name, line], i) => {
        const color = `var(${palette[i % palette.length]})`, kind = Math.floor(i / palette.length) % dashes.length;
        const one = line.length === 1; // a point, where there is no line yet
        shape(svg, "path", {
          d: line.map((p, j) => (j ? "L" : "M") + x(p[0]) + " " + y(p[1])).join("") + (one ? "h0" : ""),
          style: `fill:none;stroke:${color};` + (one ? "stroke-width:7;stroke-linecap:round" : `stroke-width:2;stroke-dasharray:${dashes[kind]}`),
        });
        const mark = make("i");
        mark.style.borderTop = `3px ${borders[kind]} ${color}`;
        legend.append(make("span", {}, mark, name));
      });
      figure.append(svg, legend);
      $("curves").append(figure);
    }
  }

  // --- list of queries -----------------------------------------------------------------------------------
  function select() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    const keep = { all: () => true, gain: (d) => d > 0, loss: (d) => d < 0, change: (d) => d !== 0, same: (d) => d === 0 }[state.filter];
    const key = {
      loss: (q) => difference(q), gain: (q) => -difference(q), size: (q) => -Math.abs(difference(q)), low: value, file: (q) => q,
    }[state.sort];
    const order = [];
    for (let q = 0; q < N; q++) {
      if (!keep(difference(q))) continue;
      const text = (D.ids[q] + " " + D.texts[q]).toLowerCase();
      if (words.every((word) => text.includes(word))) order.push(q);
    }
    const keys = new Map(order.map((q) => [q, key(q)]));
    order.sort((a, b) => keys.get(a) - keys.get(b) || a - b);
    state.order = order;
    state.drawn = 0;
    $("list").replaceChildren();
    $("count").textContent = order.length === N ? `${N} queries` : `${order.length} of ${N} queries`;
    if (!order.length) $("list").append(make("p", { class: "empty" }, "No query matches."));
    addRows();
  }

  function addRows(until = state.drawn + STEP) {
    const rows = document.createDocumentFragment();
    for (; state.drawn < Math.min(until, state.order.length); state.drawn++) rows.append(row(state.order[state.drawn]));
    $("list").append(rows);
    const left = state.order.length - state.drawn;
    $("more").hidden = left <= 0;
    $("more").textContent = `Show more (${left} left)`;
  }

  function row(q) {
    const d = difference(q);
    const what = make("span", { class: "what" }, label(q));
    const about = [D.texts[q] ? D.ids[q] : "", `${D.relevant[level()][q]} ${relevant()}`].filter(Boolean).join(" · ");
    what.append(make("span", { class: "id" }, about));
    const button = make("button", { type: "button", "aria-expanded": "false", onclick: () => toggle(q, article) }, what,
      make("span", { class: "change" }, `${baseValue(q).toFixed(4)} \u2192 ${value(q).toFixed(4)}`),
      make("span", { class: "chip " + kind(d) }, signed(d)));
    const article = make("article", { class: "query", "data-query": q }, button);
    return article;
  }

  async function toggle(q, article, open = article.firstChild.getAttribute("aria-expanded") === "false") {
    article.firstChild.setAttribute("aria-expanded", String(open));
    article.querySelector(".panel")?.remove();
    if (!open) return;
    const panel = make("div", { class: "panel" });
    article.append(panel);
    if (typeof DecompressionStream === "undefined") {
      panel.append("This browser is too old to unpack the rankings (it lacks DecompressionStream).");
      return;
    }
    const [tops, below, more] = await detail(q);
    const pair = [D.baseline, state.system];
    const sides = await Promise.all(pair.map((system) => side(system, pair, tops[system])));
    const show = (which) => sides.forEach((element, i) => {
      element.classList.toggle("on", i === which);
      buttons.children[i].setAttribute("aria-pressed", String(i === which));
    });
    const buttons = make("div", { class: "switch" }, ...pair.map((system, i) => make("button", { type: "button", onclick: () => show(i) }, D.systems[system])));
    show(1);
    panel.replaceChildren(buttons, make("div", { class: "sides" }, ...sides));
    const listed = below.filter(([, grade]) => grade >= level()), left = more.filter((grade) => grade >= level()).length;
    if (listed.length) {
      const list = make("ul");
      for (const [n, grade, ...ranks] of listed) {
        const [name] = await doc(n);
        list.append(make("li", {}, `${name} (grade ${grade}): ${pair.map((s) => `${D.systems[s]} ${place(ranks[s])}`).join(", ")}`));
      }
      panel.append(make("div", { class: "below" }, `${relevant()[0].toUpperCase()}${relevant().slice(1)}, but below what is shown:`, list, left ? `and ${left} more` : ""));
    }
  }
  const place = (rank) => (rank ? "rank " + rank : "not found");

  async function side(system, pair, top) {
    const other = pair[0] === system ? pair[1] : pair[0];
    const list = make("ol");
    if (!top.length) list.append(make("li", { class: "empty" }, "This run has no result for the query."));
    let rank = 0;
    for (const item of top) {
      rank += 1;
      const [n, grade] = item, there = item[2 + other], score = item[item.length - 1];
      const [name, text] = await doc(n);
      const badge = grade === null
        ? make("span", { class: "grade none", title: "not judged" }, "?")
        : make("span", {
          class: "grade g" + Math.max(0, Math.min(3, grade)) + (grade > 0 && grade < level() ? " partial" : ""),
          title: `grade ${grade}: ${grade >= level() ? "" : "not "}relevant in ${D.measures[state.measure]}`,
        }, String(grade));
      const head = make("div", { class: "head" }, make("span", { class: "name" }, name), make("span", {}, String(score)), moved(system, rank, there, other));
      const body = make("div", {}, head);
      if (text) {
        const unfold = (event) => {
          if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          event.currentTarget.setAttribute("aria-expanded", String(event.currentTarget.classList.toggle("open")));
        };
        body.append(make("p", { class: "text", role: "button", tabindex: 0, "aria-expanded": "false", onclick: unfold, onkeydown: unfold }, text));
      }
      else if (D.hasText) body.append(make("p", { class: "lacking" }, text === null ? "The corpus does not have this document." : "This document has no text."));
      list.append(make("li", { class: "doc" }, make("span", { class: "rank" }, String(rank)), badge, body));
    }
    const title = make("h3", {}, D.systems[system], " ", make("small", {}, system === D.baseline ? "baseline" : ""));
    return make("div", { class: "side", "data-system": system }, title, list);
  }

  function moved(system, rank, there, other) {
    if (system === D.baseline) { // where it goes
      if (there === rank) return make("span", {}, "stays");
      if (!there) return make("span", { class: "down" }, "dropped");
      return make("span", { class: there < rank ? "up" : "down" }, `\u2192 ${there}`);
    }
    if (!there) return make("span", { class: "up" }, "new");
    if (there === rank) return make("span", {}, "=");
    const up = there > rank;
    return make("span", { class: up ? "up" : "down", title: `rank ${there} in ${D.systems[other]}` }, `${up ? "\u25b2" : "\u25bc"} ${Math.abs(there - rank)}`);
  }

  function openQuery(q) {
    if (!state.order.includes(q)) {
      state.search = $("search").value = "";
      state.filter = $("filter").value = "all";
      select();
    }
    const index = state.order.indexOf(q);
    if (index >= state.drawn) addRows(index + 20);
    const article = document.querySelector(`[data-query="${q}"]`);
    toggle(q, article, true);
    article.scrollIntoView({ block: "start" });
    article.firstChild.focus({ preventScroll: true });
  }

  // --- controls ------------------------------------------------------------------------------------------
  D.measures.forEach((name, i) => $("measure").append(make("option", { value: i }, name)));
  others.forEach((i) => $("system").append(make("option", { value: i }, D.systems[i])));
  $("system-label").hidden = others.length < 2;
  const redraw = () => { drawBars(); drawScatter(); select(); };
  $("measure").onchange = (event) => { state.measure = Number(event.target.value); redraw(); };
  $("system").onchange = (event) => { state.system = Number(event.target.value); redraw(); };
  $("filter").onchange = (event) => { state.filter = event.target.value; select(); };
  $("sort").onchange = (event) => { state.sort = event.target.value; select(); };
  let waiting;
  $("search").oninput = (event) => { clearTimeout(waiting); waiting = setTimeout(() => { state.search = event.target.value; select(); }, 120); };
  $("more").onclick = () => {
    const first = state.drawn;
    addRows();
    $("list").children[first]?.firstChild.focus();
  };
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting && !$("more").hidden) addRows(); }, { rootMargin: "600px" }).observe($("more"));
  $("theme").onclick = () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (event.key === "/" && !typing) { event.preventDefault(); $("search").focus(); return; }
    if (event.key === "Escape") {
      const article = event.target.closest?.(".query");
      if (article) { toggle(Number(article.dataset.query), article, false); article.firstChild.focus(); }
      else if (event.target === $("search")) { state.search = event.target.value = ""; select(); }
      return;
    }
    const inside = event.target.closest?.(".query");
    const step = { j: 1, k: -1, ...(inside && { ArrowDown: 1, ArrowUp: -1 }) }[event.key];
    if (typing || !step) return;
    const next = inside ? (step > 0 ? inside.nextElementSibling : inside.previousElementSibling) : $("list").firstElementChild;
    if (next?.matches(".query")) {
      event.preventDefault();
      next.firstChild.focus({ preventScroll: true });
      next.scrollIntoView({ block: "nearest" });
    }
  });
  let resized;
  window.addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { drawBars(); drawScatter(); }, 150); });
  if ($("curves")) drawCurves();
  redraw();
})();
