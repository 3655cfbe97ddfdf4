"use strict";
(() => {
  const table = document.getElementById("table"), body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  const atFirst = rows.filter((row) => !row.hidden).length;
  let showsAll = atFirst === rows.length;

  // The model of a row is highlighted in all charts. A line has a tooltip, and its own highlight by CSS.
  function highlight(row) {
    for (const path of document.querySelectorAll("path.lit")) path.classList.remove("lit");
    for (const path of row ? document.querySelectorAll(`path[data-model="${row.dataset.model}"]`) : []) path.classList.add("lit");
    document.body.classList.toggle("some-lit", row !== null);
  }
  for (const event of ["mouseover", "focusin"]) body.addEventListener(event, ({ target }) => highlight(target.closest("tr")));
  for (const event of ["mouseleave", "focusout"]) body.addEventListener(event, () => highlight(null));

  // The table: cells without a number are last in both directions.
  function limit() {
    [...body.rows].forEach((row, place) => { row.hidden = !showsAll && place >= atFirst; });
  }
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
    const key = (row) => {
      const cell = row.cells[column];
      return !numeric ? cell.textContent : cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const keyed = rows.map((row) => [key(row), row]);
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
