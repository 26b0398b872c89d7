"""Any Hugging Face dataset as a task: a hub name, a folder, or csv, json and parquet files."""

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from datamodules.intake import Intake
from datamodules.tasks.table import KEY, USUAL, Table, tables_of
from datamodules.tasks.task import SEAM, SPLITS, Example, Task, balanced_split
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice

BEYOND = "more than its split or the rarest class has room for"


class Hub:
    """One task of a dataset: columns are texts and a label, label values are classes with a word each.

    Every split is balanced over classes and no text is in two. Splits that share one of the dataset's share it in proportion
    to their sizes.

    Args:
        name: of the task; skill: what tasks it resembles, hint: the words of a hard prompt.
        dataset: name on the hub, a folder (of data files, or written by save_to_disk), or a file, which holds one split.
        config: of the dataset, such as `sst2` of GLUE; revision: commit, branch or tag on the hub.
        data_files: {the dataset's split: file}, for files of other names; `dataset` is then csv, json or parquet.
        text: a column, or a pair of them, which `join` goes between; None: the backbone's own separator.
        label: column of the class; a class is named by its name or its number.
        words: {class: label word, or a list of several}; rows of other classes are left out.
        splits: {train, val, test: the dataset's split}, null a part of `train`'s; without it the usual names, or a part.
        train, val, test: examples of a split at most.
    """

    def __init__(
        self,
        *,
        name: str,
        dataset: str,
        text: str | Sequence[str],
        words: Mapping[str | int, str | Sequence[str]],
        config: str | None = None,
        revision: str | None = None,
        data_files: Mapping[str, str] | None = None,
        label: str = "label",
        join: str | None = " ",
        splits: Mapping[str, str | None] | None = None,
        skill: str | None = None,
        hint: str = "",
        train: Count = 4096,
        val: Count = 512,
        test: Count = 2048,
        seed: Whole = 0,
    ) -> None:
        self.name, self.skill, self.hint, self.seed = name, skill or name, hint, seed
        self.dataset, self.config, self.revision = dataset, config, revision
        self.data_files = dict(data_files) if data_files else None
        self.text = [text] if isinstance(text, str) else list(text)
        self.label, self.join = label, join
        self.words = {str(c): _words(c, given) for c, given in words.items()}
        self.splits = dict(splits) if splits else None
        for role in self.splits or ():
            check_choice(f"{KEY}.splits", role, SPLITS)
        if len(self.words) < 2 or len(self.text) not in (1, 2):
            raise ValueError(
                f"{KEY}: {len(self.words)} words and {len(self.text)} columns of text; expected a word for each of at least "
                "two classes, and one or two columns."
            )
        if self.label in self.text:
            raise ValueError(
                f"{KEY}: column {self.label!r} is the label and a text; expected a text that does not tell its class."
            )
        self.sizes = {"train": train, "val": val, "test": test}
        for role, size in self.sizes.items():
            if size < len(self.words):
                raise ValueError(
                    f"{KEY}.{role} is {size}; expected at least {len(self.words)}: a split has an example of every class."
                )

    def names(self) -> list[str]:
        return [self.name]

    def label_words(self, name: str) -> tuple[tuple[str, ...], ...]:
        """Of each class, known before anything is read."""
        check_choice("data.task", name, self.names())
        return tuple(self.words.values())

    def task(self, name: str) -> Task:
        """ValueError naming the key for a dataset, split, column or class that is not there."""
        check_choice("data.task", name, self.names())
        return self._read

    @cached_property
    def _read(self) -> Task:
        intake = Intake(self.dataset if self.name == "custom" else self.name)
        tables = tables_of(self.dataset, config=self.config, revision=self.revision, data_files=self.data_files)
        source = self._sources(tables)
        examples: dict[str, list[Example]] = {}
        seen: dict[str, int] = {}
        # Test comes first: a text that is in two splits of the dataset stays where it is measured.
        for split in dict.fromkeys(source[role] for role in reversed(SPLITS)):
            before = Counter(intake.out)
            found = self._rows(tables[split], split, seen, intake)
            if not found:
                self._refuse_empty(split, intake.out - before, source, tables)
            sizes = {role: self.sizes[role] for role in SPLITS if source[role] == split}
            parts = balanced_split(found, sizes=sizes, classes=len(self.words), name=f"hub-{self.seed}")
            examples |= parts
            self._balance(found, parts, intake)
        intake.warn_of_few_tests()
        texts = {role: [text for text, _ in examples[role]] for role in SPLITS}
        labels = {role: [label for _, label in examples[role]] for role in SPLITS}
        every = tuple(self.words.values())
        join = self.join if len(self.text) > 1 else " "
        several = every if any(len(of_class) > 1 for of_class in every) else ()
        first = tuple(of_class[0] for of_class in every)
        return Task(
            self.name, self.skill, first, texts, labels, hint=self.hint, join=join, intake=intake, words=several
        )

    def _refuse_empty(
        self, split: str, out: Counter[tuple[str, str]], source: Mapping[str, str], tables: Mapping[str, Table]
    ) -> NoReturn:
        """Benchmarks hide the labels of their tests."""
        reasons = ", ".join(f"{count:,} {reason}" for (reason, _), count in out.most_common())
        other = next((n for n in (source["val"], source["train"], *tables) if n != split), None)
        instead = {role: other if own == split else None if own == other else own for role, own in source.items()}
        told = ", ".join(f"{role}: {own or 'null'}" for role, own in instead.items())
        raise ValueError(
            f"{KEY}.splits: of {split!r} of {self.dataset} no row is left ({reasons or 'it has none'}); expected a split "
            f"with labels{f', such as {KEY}.splits={{{told}}}' if other else ''}."
        )

    def _balance(self, there: list[Example], taken: dict[str, list[Example]], intake: Intake) -> None:
        """Count what a split of equally many of each class takes; warn of a class that makes the others small."""
        names = list(self.words)
        intake.taken_are({role: [names[label] for _, label in own] for role, own in taken.items()})
        intake.leave(BEYOND, count=len(there) - sum(map(len, taken.values())))
        counts = Counter(label for _, label in there)
        rare, most = min(counts, key=counts.__getitem__), max(counts.values())
        if "train" in taken and len(taken["train"]) < self.sizes["train"] // 2 and most >= 2 * counts[rare]:
            intake.warnings.append(
                f"class {names[rare]!r} has {counts[rare]} rows and another {most}: splits hold equally many of each class, "
                f"so training has {len(taken['train'])} rows. Leave the class out of data.source.words, or bring more of it."
            )

    def _sources(self, tables: Mapping[str, Table]) -> dict[str, str]:
        """Role -> split of the dataset."""
        given = self.splits or {role: next((n for n in USUAL[role] if n in tables), None) for role in SPLITS}
        train = given.get("train") or next(iter(tables))
        source = {role: given.get(role) or train for role in SPLITS}
        for role, split in source.items():
            check_choice(f"{KEY}.splits.{role}", split, tables)
        return source

    def _rows(self, table: Table, split: str, seen: dict[str, int], intake: Intake) -> list[Example]:
        """Those of the wanted classes, each text once; `seen`: the class of every text of before."""
        for key, column in [*((f"{KEY}.text", c) for c in self.text), (f"{KEY}.label", self.label)]:
            check_choice(key, column, table.column_names)
        names = table.classes.get(self.label, [])
        wanted = {str(names.index(c)) if c in names else c: n for n, c in enumerate(self.words)}
        values = _labels(table, self.label, wanted)
        known = [*names, *sorted({v for v in values if v is not None})]
        for c in self.words:
            check_choice(f"{KEY}.words: class of {self.dataset} in {split}", c, known)
        found: list[Example] = []
        other = 0
        for row, (value, *parts) in enumerate(zip(values, *map(table.column, self.text), strict=True)):
            intake.read += 1
            if value is None or (names and value == "-1"):
                intake.leave("label missing")
            elif value not in wanted:
                intake.leave("of another class")
            elif None in parts:
                intake.leave("text missing")
            elif not (text := self._text(parts, table, row)):
                intake.leave("text empty")
            elif text in seen:
                differs = seen[text] != wanted[value]
                other += differs
                intake.leave("text there already, of another class" if differs else "text there already")
            else:
                seen[text] = wanted[value]
                found.append((text, seen[text]))
        if other:
            intake.warnings.append(
                f"{other} rows of {split} have a text that is there with another class; the first of them is taken. Decide "
                "which is right."
            )
        return found

    def _text(self, parts: list[Any], table: Table, row: int) -> str:
        try:
            cleaned = [" ".join(part.split()) for part in parts]
        except (AttributeError, TypeError):
            column, part = next((c, p) for c, p in zip(self.text, parts, strict=True) if not isinstance(p, str))
            raise ValueError(
                f"{KEY}.text: column {column!r} of {self.dataset} holds {type(part).__name__} ({table.place(row)}); "
                "expected text."
            ) from None
        return (SEAM if self.join is None else self.join).join(cleaned) if any(cleaned) else ""


def _words(c: str | int, given: Any) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(
            f"{KEY}.words: class {c!r} has {given!r}; expected its label word, or a list of several, as text: quote what is "
            "a number, true or null."
        )
    return words


def _labels(table: Table, column: str, wanted: Container[str]) -> list[str | None]:
    """Of every row by `label_of`, which is asked once a value: a column of labels holds few."""
    # True, 1 and 1.0 are one key of a mapping, and not one label.
    label = lru_cache(maxsize=None, typed=True)(lambda value: label_of(value, wanted))
    values = table.column(column)
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float | None):
            told = f"{table.place(row)} holds {type(value).__name__}"
            raise ValueError(f"{KEY}.label: {told}; expected a class's name or number.")
    return [label(value) for value in values]


def label_of(value: str | float | None, wanted: Container[str]) -> str | None:
    """A label as `words` names it: 0.0 is class 0, true is True or 1; None where there is none."""
    if value is None or value != value or value == "":
        return None
    if isinstance(value, bool):
        forms = [str(value), str(value).lower(), str(int(value))]
    elif isinstance(value, int | float):
        forms = [str(int(value)) if float(value).is_integer() else str(value)]
    else:
        forms = [value, value.strip(), re.sub(r"^([+-]?\d+)\.0+$", r"\1", value.strip())]
    return next((form for form in forms if form in wanted), forms[min(1, len(forms) - 1)] if forms[0].strip() else None)


class Hubs:
    """Several datasets at once, for studies of more than one task; `tasks`: name -> its `Hub`."""

    def __init__(self, *, tasks: Mapping[str, Any]) -> None:
        self.tasks = dict(tasks)

    def names(self) -> list[str]:
        return list(self.tasks)

    def label_words(self, name: str) -> tuple[tuple[str, ...], ...]:
        check_choice("data.task", name, self.tasks)
        return self.tasks[name].label_words(self.tasks[name].name)

    def task(self, name: str) -> Task:
        check_choice("data.task", name, self.tasks)
        return replace(self.tasks[name].task(self.tasks[name].name), name=name)
