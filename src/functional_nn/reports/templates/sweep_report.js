"use strict";
(() => {
  const table = document.getElementById("table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells], current = document.getElementById("current");
  const rows = new Map([...body.rows].map((row) => [row.dataset.model, row]));
  const hint = current.textContent;
  const atFirst = [...body.rows].filter((row) => !row.hidden).length;
  let showsAll = atFirst === rows.size;

  // A model is highlighted everywhere: in the table and in all charts.
  const paths = new Map();
  for (const path of document.querySelectorAll("path[data-model]")) {
    const of = paths.get(path.dataset.model) || [];
    paths.set(path.dataset.model, [...of, path]);
  }
  let lit = null;
  function highlight(model) {
    if (model === lit) return;
    for (const one of lit === null ? [] : [rows.get(lit), ...(paths.get(lit) || [])]) one.classList.remove("lit");
    lit = model;
    document.body.classList.toggle("some-lit", model !== null && paths.has(model));
    if (model === null) { current.textContent = hint; return; }
    // The last line in the group is drawn on top of the others.
    for (const path of paths.get(model) || []) { path.classList.add("lit"); path.parentNode.append(path); }
    const row = rows.get(model);
    row.classList.add("lit");
    current.textContent = heads.map((head, place) => `${head.textContent.trim()} ${row.cells[place].textContent}`).join(", ");
  }

  body.addEventListener("mouseover", (event) => highlight(event.target.closest("tr").dataset.model));
  body.addEventListener("mouseleave", () => highlight(null));
  body.addEventListener("focusin", (event) => highlight(event.target.closest("tr").dataset.model));
  body.addEventListener("focusout", () => highlight(null));

  // In a chart, the line nearest to the pointer is highlighted. Arrow keys go through the models by rank.
  const order = [...rows.keys()].filter((model) => paths.has(model));
  for (const chart of document.querySelectorAll(".models-chart")) {
    const lines = [...chart.querySelectorAll("path[data-model]")].map((path) => ({
      model: path.dataset.model,
      pieces: path.getAttribute("d").split("M").slice(1).map((piece) => piece.split("L").map((place) => place.trim().split(" ").map(Number))),
    }));
    const nearest = (x, y) => {
      let best = null, least = 16;
      for (const { model, pieces } of lines) for (const piece of pieces) for (let i = 1; i < piece.length; i++) {
        const [x0, y0] = piece[i - 1], [x1, y1] = piece[i];
        if (x < x0 - 4 || x > x1 + 4) continue;
        const share = x1 === x0 ? 0 : Math.min(1, Math.max(0, (x - x0) / (x1 - x0)));
        const distance = Math.abs(y - y0 - share * (y1 - y0));
        if (distance < least) { least = distance; best = model; }
      }
      return best;
    };
    const point = (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
      highlight(nearest(place.x, place.y));
    };
    chart.addEventListener("pointermove", point);
    chart.addEventListener("pointerdown", point);
    chart.addEventListener("pointerleave", () => highlight(null));
    chart.addEventListener("keydown", (event) => {
      const at = order.indexOf(lit);
      const next = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: order.length - 1 }[event.key];
      if (event.key === "Escape") highlight(null);
      if (next === undefined) return;
      event.preventDefault();
      highlight(order[Math.min(order.length - 1, Math.max(0, next))]);
    });
    chart.addEventListener("blur", () => highlight(null));
  }

  // The table: cells without a number are last in both directions.
  function limit() {
    [...body.rows].forEach((row, place) => { row.hidden = !showsAll && place >= atFirst; });
  }
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const numeric = [...rows.values()].some((row) => row.cells[column].dataset.value !== undefined);
    const key = (row) => {
      const cell = row.cells[column];
      return !numeric ? cell.textContent : cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const keyed = [...rows.values()].map((row) => [key(row), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b));
    });
    body.append(...keyed.map(([, row]) => row));
    limit();
  }));
  const all = document.getElementById("all");
  if (all) all.addEventListener("click", () => { showsAll = true; limit(); all.parentNode.hidden = true; });
})();
