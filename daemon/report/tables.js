"use strict";
(() => {
  // What needs no charts: tables that sort, and the choice of light or dark.

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((th, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      button.addEventListener("click", () => {
        const up = th.getAttribute("aria-sort") !== "ascending", value = (tr) => tr.cells[column].dataset.v ?? tr.cells[column].textContent;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        const numeric = [...body.rows].every((tr) => tr.cells[column].dataset.v !== undefined);
        const compare = (a, b) => (numeric ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b), "en", { numeric: true }));
        body.append(...[...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
      });
    });
  }
  document.querySelectorAll("table").forEach(sortable);

  // light and dark

  const theme = document.getElementById("theme"), THEMES = ["system", "light", "dark"];
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "system") + 1) % 3];
    if (next === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    theme.textContent = `Theme: ${next}`;
  });
})();
