// A click on a heading sorts its table by that column; a second click turns the order round.
document.querySelectorAll("table.sortable th").forEach((heading) => {
  heading.addEventListener("click", () => {
    const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
    const down = heading.dataset.down !== "yes";
    heading.dataset.down = down ? "yes" : "no";
    const value = (row) => row.cells[column].textContent;
    const compare = (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
    [...body.rows].sort((a, b) => (down ? compare(a, b) : compare(b, a))).forEach((row) => body.append(row));
  });
});
