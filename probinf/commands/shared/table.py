"""A CSV file with a header, and its columns as numbers."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from probinf.errors import DataError, UnknownNameError

_INDEXED = re.compile(r"(.+)\[(\d+)\]")
_INTEGER = re.compile(r"[+-]?\d+")


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        path: the file.
        cells: column -> cells, one for each row.
        lines: line of the file where each row stands.
    """

    path: str
    cells: dict[str, list[str]]
    lines: list[int]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of variables: `y` stands for a column `y`, or for the columns `y[0]`, `y[1]`, ..."""
        return tuple(dict.fromkeys(_base(column) for column in self.cells))

    def numbers(self, name: str) -> np.ndarray:
        """The values of a variable: shape (rows,), or (rows, k) for columns `name[0]` to `name[k-1]`.

        Whole numbers throughout give integers, which may be used as indices.

        Raises:
            UnknownNameError: no such variable.
            DataError: text, missing or infinite cells; the first row is named.
        """
        if name in self.cells:
            return self._column(name)
        parts = [column for column in self.cells if _base(column) == name]
        if not parts:
            raise UnknownNameError(name, self.names, "column", self.path)
        expected = [f"{name}[{i}]" for i in range(len(parts))]
        if sorted(parts) != sorted(expected):
            raise DataError(f"{self.path}: expected columns {', '.join(expected)}, found {', '.join(parts)}.")
        return np.stack([self._column(column) for column in expected], axis=1)

    def _column(self, name: str) -> np.ndarray:
        cells = self.cells[name]
        values = np.empty(len(cells))
        for row, cell in enumerate(cells):
            try:
                values[row] = number(cell)
            except ValueError:
                raise DataError(
                    f"{self._place(row)}: column {name!r} holds text, {cell!r}; expected numbers. Give categories as "
                    "whole numbers 0, 1, 2, ..."
                ) from None
        for what, is_bad in (("missing", np.isnan(values)), ("infinite", np.isinf(values))):
            if is_bad.any():
                first = int(np.argmax(is_bad))
                raise DataError(
                    f"{self._place(first)}: column {name!r} is {what} there, and in {int(is_bad.sum())} of "
                    f"{len(cells)} rows; fill the gaps or leave these rows out."
                )
        if all(_INTEGER.fullmatch(cell.strip()) for cell in cells):
            return values.astype(np.int64)
        return values

    def _place(self, row: int) -> str:
        return place(self.path, row + 1, self.lines[row])


def place(path: str, row: int, line: int) -> str:
    """Where a row stands, for messages: rows count from 1 after the header."""
    return f"{path}, row {row} (line {line})"


def number(cell: str) -> float:
    """A cell as a number; empty, NA and NaN are missing. `ValueError` for text."""
    text = cell.strip()
    return float("nan") if text.lower() in ("", "na", "n/a", "nan") else float(text)


def separator(header: str) -> str:
    """The sign between cells: comma, semicolon or tab, whichever the header has most of."""
    return max(",;\t", key=header.count)


def check_header(path: str, header: Sequence[str]) -> list[str]:
    """Names of the columns, spaces around them removed.

    Raises:
        DataError: none, a name twice, or numbers where names belong.
    """
    names = [name.strip() for name in header]
    if not any(names):
        raise DataError(f"{path}: empty; expected a header with the names of the columns.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are named {twice!r}.")
    if all(is_number(name) for name in names):
        raise headless(path, names)
    return names


def headless(path: str, names: Sequence[str]) -> DataError:
    """The error of a table that begins with its first row."""
    return DataError(
        f"{path}: the first line holds numbers ({', '.join(names)}); expected a header with the names of the columns."
    )


def read(path: str) -> Table:
    """Read a table.

    Raises:
        DataError: not a table of text, no rows, or a row of another length; it is named.
        OSError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8; expected a CSV file.") from None
    lines = text.splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=separator(lines[0] if lines else ""))
    names = check_header(path, next(rows, []))
    columns: list[list[str]] = [[] for _ in names]
    places = []
    for row in rows:
        if not row:
            continue
        if len(row) != len(names):
            where = place(path, len(places) + 1, rows.line_num)
            raise DataError(f"{where}: {len(row)} cells, expected {len(names)} as in the header.")
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
        places.append(rows.line_num)
    if not places:
        raise DataError(f"{path}: a header and no rows.")
    return Table(path, dict(zip(names, columns, strict=True)), places)


def _base(column: str) -> str:
    match = _INDEXED.fullmatch(column)
    return match[1] if match else column


def is_number(text: str) -> bool:
    """Whether a cell is a number, which the name of a column hardly ever is."""
    try:
        float(text)
    except ValueError:
        return False
    return True
