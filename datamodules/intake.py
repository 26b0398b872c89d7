"""What a reader took of a file and what it left out: counted by reason, said once, and handed to whoever watches the run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_modules.common.making import watcher
from lightning_modules.common.rank import is_first

# Of a smaller test split an accuracy says little: at 50 its standard error is up to 7 points.
FEW_TESTS = 50


class Intake:
    """Counts of one task, corpus or file of pairs.

    `read` rows in all; `out[reason, group]` of them are left out; `taken[split][group]` are used, a group being a class, a
    domain or a category, '' where it is not known; `cut[split]` texts were longer than there is room for; `warnings` are
    sentences.
    """

    def __init__(self, name: str, *, unit: str = "row") -> None:
        self.name, self.unit = name, unit
        self.read = 0
        self.out: Counter[tuple[str, str]] = Counter()
        self.taken: dict[str, Counter[str]] = {}
        self.cut: Counter[str] = Counter()
        self.warnings: list[str] = []

    def leave(self, reason: str, group: str = "", count: int = 1) -> None:
        if count:
            self.out[reason, group] += count

    def rows(self) -> list[dict[str, Any]]:
        """For a table: one row a count, the same columns in all."""
        found = [("read", "", "", self.read)]
        found += [(f"left out: {reason}", "", group, count) for (reason, group), count in self.out.items()]
        found += [("taken", s, group, count) for s, groups in self.taken.items() for group, count in groups.items()]
        found += [("cut", split, "", count) for split, count in self.cut.items()]
        return [dict(zip(("of", "what", "split", "class", "count"), (self.name, *row), strict=True)) for row in found]

    def lines(self) -> list[str]:
        """For the terminal; nothing where all was taken as it is."""
        found = []
        if self.out:
            of = Counter[str]()
            for (reason, group), count in self.out.items():
                of[f"{reason} in {group}" if group else reason] += count
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in of.most_common())
            left = ", ".join(f"{sum(groups.values()):,} {split}" for split, groups in self.taken.items())
            found.append(
                f"{self.name}: {self.out.total():,} of {self.read:,} {self.unit}s left out ({reasons}); taken: {left}."
            )
        if self.cut.total():
            total = sum(sum(self.taken[split].values()) for split in self.cut if split in self.taken)
            found.append(
                f"{self.name}: {self.cut.total():,} texts of {total:,} {self.unit}s are longer than there is room for: cut."
            )
        return found + [f"Warning: {self.name}: {text}" for text in self.warnings]

    def tell(self) -> None:
        """May be told again when more is known; whoever watches says each line once."""
        if is_first():
            watcher().read(self.name, self.lines(), self.rows())

    def taken_are(self, splits: Mapping[str, Iterable[str]]) -> None:
        """{split: the group of each row}."""
        for split, groups in splits.items():
            self.taken[split] = Counter(groups)

    def warn_of_few_tests(self) -> None:
        tests = sum(self.taken.get("test", Counter()).values())
        if 0 < tests < FEW_TESTS:
            self.warnings.append(f"the test split has {tests} {self.unit}s; below {FEW_TESTS} its numbers say little.")
