"use strict";

// Sort a table by a column: numbers by data-value, the first column in the order of the design; what is missing last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const value = (row) => (column ? parseFloat(row.cells[column].dataset.value ?? "NaN") : original.indexOf(row));
      const compare = (a, b) =>
        Number.isNaN(value(a)) - Number.isNaN(value(b)) || direction * (value(a) - value(b)) || 0;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      body.append(...[...original].sort(compare));
    });
  });
}

// Point at a cell in a legend and the other lines step back; click to keep it so.
for (const figure of document.querySelectorAll("figure.curves")) {
  let kept = null;
  const show = (cell) => {
    for (const line of figure.querySelectorAll("[data-series]")) {
      line.classList.toggle("faded", cell !== null && line.dataset.series !== cell);
    }
  };
  for (const button of figure.querySelectorAll("[data-highlight]")) {
    const cell = button.dataset.highlight;
    button.addEventListener("pointerenter", () => show(cell));
    button.addEventListener("pointerleave", () => show(kept));
    button.addEventListener("click", () => {
      kept = kept === cell ? null : cell;
      for (const other of figure.querySelectorAll("[data-highlight]")) {
        other.setAttribute("aria-pressed", String(other.dataset.highlight === kept));
      }
      show(kept);
    });
  }
}

// Examples: one at a time, by turn and prompt, with the replies of all cells or of two side by side. Without this
// script, and on paper, they follow one another.
for (const box of document.querySelectorAll(".examples")) {
  const articles = [...box.querySelectorAll("article")];
  const replies = [...box.querySelectorAll("[data-cell]")];
  const distinct = (values) => [...new Set(values)].filter((value) => value !== "");
  const byNumber = (a, b) => a - b;
  const bar = document.createElement("nav");
  const place = document.createElement("span");
  place.setAttribute("aria-live", "polite");
  let current = 0;

  const choice = (name, any, values) => {
    const label = document.createElement("label");
    const select = document.createElement("select");
    select.name = name;
    select.append(new Option(any, ""), ...values.map((value) => new Option(value, value)));
    select.addEventListener("change", () => show(0));
    label.append(`${name} `, select);
    if (values.length > 1) bar.append(label);
    return select;
  };
  const cells = distinct(replies.map((reply) => reply.dataset.cell));
  const turn = choice("turn", "any", distinct(articles.map((article) => article.dataset.turn)).sort(byNumber));
  const prompt = choice("prompt", "any", distinct(replies.map((reply) => reply.dataset.prompt)).sort(byNumber));
  const cell = choice("cell", "all", cells);
  const beside = choice("beside", "none", cells);

  const isShown = (reply) => !cell.value || [cell.value, beside.value].includes(reply.dataset.cell);
  const matches = (article) =>
    (!turn.value || article.dataset.turn === turn.value) &&
    (!prompt.value ||
      [...article.querySelectorAll("[data-cell]")].some(
        (reply) => isShown(reply) && reply.dataset.prompt === prompt.value,
      ));
  function show(index) {
    const found = articles.filter(matches);
    current = found.length ? (index + found.length) % found.length : 0;
    for (const article of articles) article.classList.toggle("aside", article !== found[current]);
    for (const reply of replies) reply.classList.toggle("aside", !isShown(reply));
    box.classList.toggle("paired", Boolean(cell.value && beside.value));
    beside.disabled = !cell.value;
    place.textContent = found.length ? `${current + 1} of ${found.length}` : "none is like this";
  }
  const step = (text, by) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => show(current + by));
    return button;
  };
  bar.append(step("Previous", -1), place, step("Next", 1));
  box.before(bar);
  show(0);
}
