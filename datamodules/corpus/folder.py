"""A user's own text as it comes: a folder with a sub-folder a domain."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules import jsons
from datamodules.corpus.sources import Documents
from datamodules.files import kind_of, lines
from datamodules.files import text as whole
from lightning_modules.common.files import stamp

READ = (".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.gz", ".json.gz", ".parquet")
# A document that is more than this part of its domain is cut, so that every split gets some; none is cut below SHORTEST.
PART, SHORTEST = 100, 400


class FolderSource:
    """A .txt file is a document; a .jsonl line, an item of a .json list, a row of Parquet are one in `field`; .gz of them.

    A long document is cut into parts, each then a document of its own: by paragraphs, or by length where one is too long.
    Raises ValueError naming the folder, file and place for what is missing, empty, no UTF-8 or no JSON.
    """

    def __init__(self, *, path: str, field: str = "text") -> None:
        self.path, self.field = Path(path).expanduser().absolute(), field
        self.warnings: list[str] = []

    def description(self) -> dict[str, Any]:
        files = [f for files in self._domains().values() for f in files]
        stats = {str(f.relative_to(self.path)): stamp(f) for f in files}
        return {"source": "folder", "version": 2, "path": str(self.path), "field": self.field, "files": stats}

    def documents(self) -> Documents:
        return {domain: self._parts(files) for domain, files in self._domains().items()}

    def _domains(self) -> dict[str, list[Path]]:
        """The files of each domain; `warnings` tell of what is not read."""
        if not self.path.is_dir():
            raise ValueError(f"data.path={self.path} is no folder; expected one with a sub-folder of text per domain.")
        self.warnings = []
        shown = sorted(p for p in self.path.iterdir() if not p.name.startswith("."))
        folders = [p for p in shown if p.is_dir()]
        if not folders:
            raise ValueError(
                f"data.path={self.path} has no sub-folder; expected one per domain, holding {', '.join(READ)}."
            )
        if loose := [p.name for p in shown if not p.is_dir()]:
            told = f"{loose[0]} and {len(loose) - 1} more stand" if len(loose) > 1 else f"{loose[0]} stands"
            self.warnings.append(f"{told} in no domain's folder of {self.path}: not read.")
        domains = {}
        for folder in folders:
            # What an editor or a notebook puts away is no text of the user's.
            every = sorted(folder.rglob("*"))
            inside = [p for p in every if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
            self._tell_of_links(folder, [p for p in inside if not p.is_file()])
            files = [p for p in inside if p.is_file()]
            domains[folder.name] = [p for p in files if p.name.lower().endswith(READ)]
            others = Counter(p.suffix or p.name for p in files if not p.name.lower().endswith(READ))
            if others:
                told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
                self.warnings.append(f"of {folder} {told} not read; read are {', '.join(READ)}.")
            if not any(f.stat().st_size for f in domains[folder.name]):
                found = f"; there is {', '.join(sorted(others))}" if others else ""
                raise ValueError(
                    f"domain folder {folder} is empty: it has no {', '.join(READ)} file with text in it{found}; "
                    "add text or remove the folder."
                )
        return domains

    def _tell_of_links(self, folder: Path, found: list[Path]) -> None:
        ways = {
            "links that lead to no file": sum(p.is_symlink() and not p.exists() for p in found),
            "links to folders, which are not followed": sum(p.is_symlink() and p.is_dir() for p in found),
            "pipes or devices, which are not read": sum(p.exists() and not p.is_dir() for p in found),
        }
        self.warnings += [f"of {folder} {count} {what}." for what, count in ways.items() if count]

    def _parts(self, files: list[Path]) -> Iterator[str]:
        longest = max(SHORTEST, sum(f.stat().st_size for f in files) // PART)
        for file in files:
            for text in self._read(file):
                yield from cut(text, longest=longest)

    def _read(self, file: Path) -> Iterator[str]:
        kind = kind_of(file)
        if kind == ".parquet":
            yield from self._parquet(file)
        elif kind == ".txt":
            yield whole(file)
        elif kind == ".jsonl":
            for number, row in jsons.lines(lines(file)):
                yield self._of_row(row, f"{file}:{number}")
        else:
            yield from self._json(file, whole(file))

    def _json(self, file: Path, content: str) -> Iterator[str]:
        try:
            rows = jsons.value(content)
        except jsons.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON ({error}); of one object a line the name ends in .jsonl.") from None
        for number, row in enumerate(rows if isinstance(rows, list) else [rows]):
            yield row if isinstance(row, str) else self._of_row(row, f"{file}, item {number}")

    def _parquet(self, file: Path) -> Iterator[str]:
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(file)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{file} is no Parquet file ({error}); write it again or remove it.") from None
        if self.field not in table.schema_arrow.names:
            there = ", ".join(table.schema_arrow.names)
            raise ValueError(f"{file} has no column {self.field!r}; there are {there}: data.field=NAME.")
        found = (row for batch in table.iter_batches(columns=[self.field]) for row in batch.to_pylist())
        for number, row in enumerate(found, 1):
            yield self._of_row(row, f"{file}, row {number}")

    def _of_row(self, row: Any, where: str) -> str:
        try:
            if isinstance(row, jsons.JSONDecodeError):
                raise row
            text = row[self.field]
        except (jsons.JSONDecodeError, KeyError, TypeError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ValueError(f'{where} is no JSON object with a field "{self.field}" ({told}).') from None
        if not isinstance(text, str):
            raise ValueError(f'{where}: field "{self.field}" holds {type(text).__name__}, expected a string.')
        return text


def cut(text: str, *, longest: int) -> Iterator[str]:
    """`text` in parts of at most `longest` characters that together are it: whole paragraphs, else cut by length."""
    if len(text) <= longest:
        yield text
        return
    part = ""
    for paragraph in text.split("\n\n"):
        if part and len(part) + len(paragraph) + 2 > longest:
            yield part
            part = ""
        part += f"{paragraph}\n\n"
        while len(part) > longest + 2:
            yield part[:longest]
            part = part[longest:]
    if part.removesuffix("\n\n"):
        yield part.removesuffix("\n\n")
