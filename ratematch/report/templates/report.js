"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NS = "http://www.w3.org/2000/svg";
  const W = 1000, H = 460, LEFT = 66, RIGHT = 20, TOP = 14, BOTTOM = 46;
  const SHAPES = {
    o: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
    s: "M-4.6,-4.6h9.2v9.2h-9.2z",
    "^": "M0,-5.6L5.4,4.4H-5.4z",
    x: "M-4,-4L4,4M-4,4L4,-4",
    "": "M-2.4,0a2.4,2.4 0 1,0 4.8,0a2.4,2.4 0 1,0 -4.8,0",
  };

  // Text from data only ever becomes text nodes and attributes: nothing in it is read as markup.
  const make = (name, attributes = {}, parent = null) => {
    const element = document.createElementNS(NS, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const html = (name, text, className = "") => {
    const element = document.createElement(name);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  };
  const show = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
  };
  const steps = (most) => {
    const rough = most / 6, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= rough);
    const found = [];
    for (let value = 0; value <= most * 1.0001; value += step) found.push(Number(value.toPrecision(12)));
    return found;
  };

  function drawChart(box) {
    const workload = data.workloads[Number(box.dataset.workload)];
    const plot = box.querySelector(".plot"), tip = box.querySelector(".tip"), pins = box.querySelector(".pins");
    if (!workload.points.length) { plot.append(html("p", "No valid point.", "hint")); return; }
    const mostX = 1.06 * Math.max(...workload.points.map((p) => p.x));
    const mostY = 1.08 * Math.max(...workload.points.map((p) => p.y));
    const px = (x) => LEFT + (W - LEFT - RIGHT) * x / mostX;
    const py = (y) => H - BOTTOM - (H - TOP - BOTTOM) * y / mostY;
    const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Fronts of " + workload.name });
    plot.prepend(svg);
    for (const x of steps(mostX)) {
      make("line", { x1: px(x), x2: px(x), y1: TOP, y2: H - BOTTOM, stroke: "#e6e6e6" }, svg);
      make("text", { x: px(x), y: H - BOTTOM + 17, "text-anchor": "middle" }, svg).textContent = x;
    }
    for (const y of steps(mostY)) {
      make("line", { x1: LEFT, x2: W - RIGHT, y1: py(y), y2: py(y), stroke: "#e6e6e6" }, svg);
      make("text", { x: LEFT - 8, y: py(y) + 4, "text-anchor": "end" }, svg).textContent = y;
    }
    make("text", { x: (LEFT + W) / 2, y: H - 8, "text-anchor": "middle" }, svg).textContent = data.x_label;
    make("text", { x: 14, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${H / 2})` }, svg).textContent = data.y_label;
    for (const [index, target] of workload.targets.entries()) {
      if (target > mostX) continue;
      make("line", { x1: px(target), x2: px(target), y1: TOP, y2: H - BOTTOM, stroke: "#999", "stroke-dasharray": "2 3" }, svg);
      make("text", { x: px(target) + 3, y: TOP + 10 + 13 * (index % 2), "font-size": 11 }, svg).textContent = target;
    }

    const layers = {};
    for (const kind of workload.kinds) {
      const layer = layers[kind.key] = make("g", { "data-kind": kind.key }, svg);
      const front = workload.points.filter((p) => p.kind === kind.key && p.front);
      if (kind.line && front.length > 1) {
        make("polyline", {
          points: front.map((p) => `${px(p.x)},${py(p.y)}`).join(" "), fill: "none",
          stroke: kind.colour, "stroke-width": kind.width, "stroke-dasharray": kind.dash,
        }, layer);
      }
      const label = document.createElement("label"), box2 = document.createElement("input");
      box2.type = "checkbox"; box2.checked = true;
      box2.addEventListener("change", () => { layer.style.display = box2.checked ? "" : "none"; });
      const sample = make("svg", { width: 34, height: 12, viewBox: "-17 -6 34 12", "aria-hidden": "true" });
      if (kind.line) make("line", { x1: -17, x2: 17, y1: 0, y2: 0, stroke: kind.colour, "stroke-width": kind.width, "stroke-dasharray": kind.dash }, sample);
      make("path", { d: SHAPES[kind.marker], fill: kind.marker === "x" ? "none" : kind.colour, stroke: kind.colour, "stroke-width": kind.marker === "x" ? 1.6 : 0 }, sample);
      label.append(box2, sample, kind.name);
      box.querySelector(".legend").append(label);
    }
    const marks = workload.points.map((point, index) => {
      const kind = workload.kinds.find((k) => k.key === point.kind);
      const strong = point.front || point.kind === "invalid";
      const mark = make("g", {
        class: "point", transform: `translate(${px(point.x)} ${py(point.y)})`, "data-index": index,
        "aria-label": `${point.label}, ${show(point.x)} tok/s/user, ${show(point.y)} tok/s/GPU`,
      }, layers[point.kind]);
      if (strong) { mark.setAttribute("tabindex", "0"); mark.setAttribute("role", "button"); }
      if (point.front && point.low !== null && point.high !== null) {
        make("line", { x1: 0, x2: 0, y1: py(point.low) - py(point.y), y2: py(point.high) - py(point.y), stroke: kind.colour }, mark);
      }
      make("path", {
        d: SHAPES[strong ? kind.marker : ""], fill: kind.marker === "x" ? "none" : kind.colour,
        stroke: kind.marker === "x" ? kind.colour : "#fff", "stroke-width": kind.marker === "x" ? 1.6 : 0.7,
        opacity: strong ? 1 : 0.35,
      }, mark);
      return mark;
    });

    const describe = (point) => {
      const box3 = document.createElement("div");
      box3.append(html("b", point.label), html("div", point.what));
      const lines = [
        `${show(point.x)} tok/s/user, ${show(point.y)} tok/s/GPU` + (point.low !== null ? ` (95 %: ${show(point.low)} to ${show(point.high)})` : ""),
        `${point.gpus} GPUs, ${show(point.concurrency)} requests in flight`,
        `TTFT ${show(point.ttft_ms)} ms, TPOT ${show(point.tpot_ms)} ms`,
      ];
      for (const line of lines) box3.append(html("div", line));
      box3.append(html("div", point.valid ? "valid" : "not valid: " + point.remarks, point.valid ? "" : "invalid"));
      if (point.valid && point.remarks) box3.append(html("div", point.remarks));
      return box3;
    };
    let near = null;
    const point_to = (index) => {
      if (near !== null) marks[near].classList.remove("near");
      near = index;
      tip.hidden = index === null;
      if (index === null) return;
      marks[index].classList.add("near");
      tip.replaceChildren(describe(workload.points[index]));
      const scale = svg.getBoundingClientRect().width / W, point = workload.points[index];
      const x = px(point.x) * scale, y = py(point.y) * scale;
      tip.style.left = (x + 14 + tip.offsetWidth > plot.offsetWidth ? Math.max(0, x - 14 - tip.offsetWidth) : x + 14) + "px";
      tip.style.top = Math.max(0, Math.min(y - 20, plot.offsetHeight - tip.offsetHeight)) + "px";
    };
    const nearest = (event) => {
      const frame = svg.getBoundingClientRect(), scale = frame.width / W;
      let best = null, least = 22;
      workload.points.forEach((point, index) => {
        if (layers[point.kind].style.display === "none") return;
        const away = Math.hypot(px(point.x) * scale - event.clientX + frame.left, py(point.y) * scale - event.clientY + frame.top);
        // Points of fronts lie over the many thin ones and win close calls.
        const distance = away + (point.front || point.kind === "invalid" ? 0 : 4);
        if (distance < least) { least = distance; best = index; }
      });
      return best;
    };
    const pinned = new Map();
    const pin = (index) => {
      if (pinned.has(index)) { pinned.get(index).remove(); pinned.delete(index); marks[index].classList.remove("pinned"); }
      else {
        const point = workload.points[index], row = document.createElement("tr");
        const cells = [point.label, point.what, point.gpus, point.concurrency, point.x, point.y, point.ttft_ms, point.tpot_ms];
        cells.forEach((cell, place) => row.append(html("td", show(cell), place > 1 ? "number" : "")));
        row.append(html("td", point.valid ? "yes" : "no: " + point.remarks, point.valid ? "" : "invalid"));
        const button = html("button", "unpin"); button.type = "button";
        button.addEventListener("click", () => pin(index));
        const last = document.createElement("td"); last.append(button); row.append(last);
        pins.tBodies[0].append(row);
        pinned.set(index, row); marks[index].classList.add("pinned");
      }
      pins.hidden = pinned.size === 0;
    };
    svg.addEventListener("mousemove", (event) => { const found = nearest(event); if (found !== near) point_to(found); });
    svg.addEventListener("mouseleave", () => point_to(null));
    svg.addEventListener("click", (event) => { const found = nearest(event); if (found !== null) pin(found); });
    marks.forEach((mark, index) => {
      mark.addEventListener("focus", () => point_to(index));
      mark.addEventListener("blur", () => point_to(null));
      mark.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(index); }
      });
    });
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent;
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        // What has no number goes last, whichever way the column is sorted.
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const order = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  document.querySelectorAll(".chart").forEach(drawChart);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  const open = () => { const target = document.getElementById(location.hash.slice(1)); if (target instanceof HTMLDetailsElement) target.open = true; };
  window.addEventListener("hashchange", open);
  open();
})();
