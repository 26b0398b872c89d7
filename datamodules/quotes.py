"""Does a quote that nobody closed hold rows of a .csv or .tsv file together? Such a file reads without an error."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

# A longer value is taken for a text, of which no two need be alike.
SHORT = 40
# Of fewer rows nothing says that they share their values.
FEW = 4


class Quotes:
    """Watches the rows of a table as they are read, and the lines they stand on.

    A text in quotes may hold line ends. It is a mistake where each of its lines, quotes apart, has all the columns, and
    one of these has everywhere what other rows have there, as a column of classes has.
    """

    def __init__(self, lines: Iterable[str], between: str) -> None:
        self._lines, self._between = lines, between
        self._taken: list[str] = []
        self._columns = 0
        self._known: defaultdict[int, set[str]] = defaultdict(set)
        # (first line, last line, the fields of each of them)
        self._spans: list[tuple[int, int, list[list[str]]]] = []

    def lines(self) -> Iterator[str]:
        for line in self._lines:
            self._taken.append(line)
            yield line

    def columns(self, count: int) -> None:
        """Called behind the header."""
        self._columns = count
        self._taken.clear()

    def row(self, row: list[str], line: int) -> None:
        """That ends on `line`."""
        fields = [self._fields(taken) for taken in self._taken]
        self._taken.clear()
        if len(fields) > 1 and self._columns > 1 and all(len(found) == self._columns for found in fields):
            self._spans.append((line - len(fields) + 1, line, fields))
            return
        for number, value in enumerate(row):
            if len(value) <= SHORT:
                self._known[number].add(value.strip())

    def left_open(self) -> tuple[int, int] | None:
        """(first line, last line) of the first text that is rows; None where there is none. Called behind the last row."""
        for first, last, fields in self._spans:
            for number in range(self._columns):
                values = [found[number] for found in fields]
                classes = len(values) >= FEW and len(set(values)) <= len(values) / 2
                if len(max(values, key=len)) <= SHORT and (classes or self._known[number].issuperset(values)):
                    return first, last
        return None

    def _fields(self, line: str) -> list[str]:
        return [field.strip() for field in line.replace('"', "").split(self._between)]
