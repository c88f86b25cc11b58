"""Which methods a table shows, and the published averages of others next to them."""

from collections.abc import Sequence
from dataclasses import replace

from ..names import nearest
from .read import Neighbour, Run
from .summary import AVERAGE, PAPER_SHOTS, Cell, Row, Table


def select(tables: list[Table], methods: Sequence[str]) -> list[Table]:
    """Return the tables with the rows of these methods only, in this order.

    Args:
        tables: the tables.
        methods: names of trainers; those of published methods have no rows. Empty: all.
    """
    if not methods:
        return tables
    order = {name: place for place, name in enumerate(methods)}
    found = []
    for table in tables:
        datasets = {name: place for place, name in enumerate(dict.fromkeys(row.dataset for row in table.rows))}
        rows = [row for row in table.rows if row.trainer in order]
        rows.sort(key=lambda row: (datasets[row.dataset], order[row.trainer]))
        notes = [note for note in table.notes if any(f" {row.trainer}" in note for row in rows)]
        if rows:
            found.append(replace(table, rows=rows, notes=notes))
    return found


def check(methods: Sequence[str], runs: Sequence[Run], neighbours: Sequence[Neighbour]) -> list[str]:
    """Return the methods as they are spelled in results and publications.

    Case does not matter.

    Raises:
        ValueError: neither results nor publications have one of them.
    """
    known = {name.lower(): name for name in (*(each.trainer for each in neighbours), *(run.trainer for run in runs))}
    for method in methods:
        if method.lower() not in known:
            raise ValueError(
                f"--methods: {method}: in no result and not published; {nearest(method, list(known.values()))}"
            )
    return [known[method.lower()] for method in methods]


def with_neighbours(table: Table, neighbours: Sequence[Neighbour], methods: Sequence[str]) -> Table:
    """Return a base-to-new table with the published averages of other methods.

    They are of 16 shots on the paper's datasets.

    Args:
        table: the table.
        neighbours: the published averages.
        methods: names of methods to show; empty: all.
    """
    if table.protocol != "base2new" or not table.of_paper or table.shots not in (None, PAPER_SHOTS):
        return table
    present = {row.trainer for row in table.rows}
    found = [each for each in neighbours if each.trainer not in present and (not methods or each.trainer in methods)]
    rows = [Row(AVERAGE, each.trainer, "", _cells(each, table.columns)) for each in found]
    notes = [f"{each.trainer}: published in {', '.join(filter(None, (each.source, each.remark)))}." for each in found]
    return replace(table, rows=[*table.rows, *rows], notes=[*table.notes, *notes])


def _cells(neighbour: Neighbour, columns: Sequence[str]) -> dict[str, Cell]:
    return {column: Cell(paper=neighbour.figures.get(column)) for column in columns}
