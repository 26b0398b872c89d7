"""Any Hugging Face dataset as a task: a hub name, a folder, or csv, json and parquet files."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.tasks.task import SPLITS, Task, balanced_split
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice

BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
KEY = "data.source"
USUAL = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


class Hub:
    """One task of a dataset: columns are texts and a label, label values are classes with a word each.

    Every split is balanced over classes and no text is in two. Splits that share one of the dataset's share it in proportion
    to their sizes.

    Args:
        name: of the task; skill: what tasks it resembles, hint: the words of a hard prompt.
        dataset: name on the hub, a folder (of data files, or written by save_to_disk), or a file, which holds one split.
        config: of the dataset, such as `sst2` of GLUE; revision: commit, branch or tag on the hub.
        data_files: {the dataset's split: file}, for files of other names; `dataset` is then csv, json or parquet.
        text: a column, or a pair of them, which `join` goes between.
        label: column of the class; a class is named by its name or its number.
        words: {class: label word}; rows of other classes are left out.
        splits: {train, val, test: the dataset's split}, null a part of `train`'s; without it the usual names, or a part.
        train, val, test: examples of a split at most.
    """

    def __init__(
        self,
        *,
        name: str,
        dataset: str,
        text: str | Sequence[str],
        words: Mapping[str | int, str],
        config: str | None = None,
        revision: str | None = None,
        data_files: Mapping[str, str] | None = None,
        label: str = "label",
        join: str = " ",
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
        self.words = {str(c): str(word) for c, word in words.items()}
        self.splits = dict(splits) if splits else None
        for role in self.splits or ():
            check_choice(f"{KEY}.splits", role, SPLITS)
        if len(self.words) < 2 or len(self.text) not in (1, 2):
            raise ValueError(
                f"{KEY}: {len(self.words)} words and {len(self.text)} columns of text; expected a word for each of at least "
                "two classes, and one or two columns."
            )
        self.sizes = {"train": train, "val": val, "test": test}

    def names(self) -> list[str]:
        return [self.name]

    def task(self, name: str) -> Task:
        """ValueError naming the key for a dataset, split, column or class that is not there."""
        check_choice("data.task", name, self.names())
        tables = self._load()
        source = self._sources(tables)
        texts: dict[str, list[str]] = {}
        labels: dict[str, list[int]] = {}
        seen: set[str] = set()
        # Test comes first: a text that is in two splits of the dataset stays where it is measured.
        for split in dict.fromkeys(source[role] for role in reversed(SPLITS)):
            roles = [role for role in SPLITS if source[role] == split]
            found_texts, found_labels = self._rows(tables[split], split, seen)
            sizes = {role: self.sizes[role] for role in roles}
            parts = balanced_split(
                texts=found_texts, labels=found_labels, sizes=sizes, classes=len(self.words), name=f"hub-{self.seed}"
            )
            texts |= parts[0]
            labels |= parts[1]
        order = {role: texts[role] for role in SPLITS}, {role: labels[role] for role in SPLITS}
        return Task(name, self.skill, tuple(self.words.values()), *order, hint=self.hint)

    def _sources(self, tables: Mapping[str, Any]) -> dict[str, str]:
        """Role -> split of the dataset."""
        given = self.splits or {role: next((n for n in USUAL[role] if n in tables), None) for role in SPLITS}
        train = given.get("train") or next(iter(tables))
        source = {role: given.get(role) or train for role in SPLITS}
        for role, split in source.items():
            check_choice(f"{KEY}.splits.{role}", split, tables)
        return source

    def _rows(self, table: Any, split: str, seen: set[str]) -> tuple[list[str], list[int]]:
        """Texts and class numbers of the wanted classes, each text once."""
        for key, column in [*((f"{KEY}.text", c) for c in self.text), (f"{KEY}.label", self.label)]:
            check_choice(key, column, table.column_names)
        feature = table.features[self.label]
        names = list(getattr(feature, "names", None) or [])
        columns = [table[column][:] for column in self.text]
        values = [None if v is None else str(v) for v in table[self.label][:]]
        there = sorted({v for v in values if v is not None})
        known = [*names, *there]
        for c in self.words:
            check_choice(f"{KEY}.words: class of {self.dataset} in {split}", c, known)
        # A class by its name or by the number that stands in the column.
        number = {}
        for n, c in enumerate(self.words):
            number[str(names.index(c)) if c in names else c] = n
        texts, labels = [], []
        for value, *parts in zip(values, *columns, strict=True):
            if value not in number or None in parts:
                continue
            text = self.join.join(" ".join(str(part).split()) for part in parts)
            if text.strip() and text not in seen:
                seen.add(text)
                texts.append(text)
                labels.append(number[value])
        return texts, labels

    def _load(self) -> Mapping[str, Any]:
        """Split -> table."""
        import datasets

        place = Path(self.dataset).expanduser()
        settings: dict[str, Any] = {"name": self.config, "revision": self.revision, "data_files": self.data_files}
        path = self.dataset
        try:
            if (place / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(place))
            if place.suffix in BUILDERS and place.is_file():
                path, settings["data_files"] = BUILDERS[place.suffix], {"train": str(place)}
            if place.suffix == ".tsv":
                settings["sep"] = "\t"
            if place.is_dir():
                path = str(place)
            return datasets.load_dataset(path, **{k: v for k, v in settings.items() if v is not None})
        except Exception as error:
            near = difflib.get_close_matches(place.name, _beside(place), n=1, cutoff=0.5)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{KEY}.dataset={self.dataset}: not loaded ({reason}). Expected the name of a dataset on the hub, with the "
                "network or its cache at hand, a folder of data files, or a .csv, .json or .parquet file"
                f"{f'; the nearest is {place.parent / near[0]}' if near else ''}."
            ) from error


class Hubs:
    """Several datasets at once, for studies of more than one task; `tasks`: name -> its `Hub`."""

    def __init__(self, *, tasks: Mapping[str, Any]) -> None:
        self.tasks = dict(tasks)

    def names(self) -> list[str]:
        return list(self.tasks)

    def task(self, name: str) -> Task:
        check_choice("data.task", name, self.tasks)
        return replace(self.tasks[name].task(self.tasks[name].name), name=name)


def _beside(place: Path) -> list[str]:
    return [p.name for p in place.parent.iterdir()] if place.parent.is_dir() and not place.exists() else []
