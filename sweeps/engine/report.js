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

// One example at a time; without this script, and on paper, they follow one another.
for (const box of document.querySelectorAll(".examples")) {
  const articles = [...box.querySelectorAll("article")];
  let current = 0;
  const bar = document.createElement("nav");
  const place = document.createElement("span");
  place.setAttribute("aria-live", "polite");
  const show = (index) => {
    current = (index + articles.length) % articles.length;
    articles.forEach((article, i) => article.classList.toggle("aside", i !== current));
    place.textContent = `${current + 1} of ${articles.length}`;
  };
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
