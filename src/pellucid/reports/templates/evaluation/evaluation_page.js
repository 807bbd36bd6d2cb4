"use strict";
const collator = new Intl.Collator(undefined, { numeric: true });

function sort(table, index, numeric, down) {
  const key = (row) => row.cells[index].dataset.k;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = numeric ? a - b : collator.compare(a, b);
    return down ? -order : order;
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("[data-sortable]")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button")?.closest("th");
    if (!head) return;
    const numeric = head.classList.contains("n");
    const now = head.getAttribute("aria-sort");
    const down = now ? now === "ascending" : numeric;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    sort(table, head.cellIndex, numeric, down);
  });
}

for (const form of document.querySelectorAll("form.filters")) {
  const rows = [...document.getElementById(form.dataset.for).tBodies[0].rows];
  const show = () => {
    const chosen = new FormData(form);
    const groups = new Set([...form.elements].map((field) => field.name).filter(Boolean));
    for (const row of rows) {
      row.hidden = [...groups].some((group) => {
        const values = chosen.getAll(group);
        return !values.includes("") && !values.includes(row.dataset[group]);
      });
    }
    form.querySelector("output").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  form.hidden = false;
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

function open() {
  const aim = location.hash && document.getElementById(location.hash.slice(1));
  if (aim instanceof HTMLDetailsElement) aim.open = true;
}
addEventListener("hashchange", open);
open();
