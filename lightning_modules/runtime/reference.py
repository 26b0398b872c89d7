"""The reference of conf/: every group, option and key as a page, from the files' comments and the code's types.

`python -m lightning_modules.runtime.reference FILE` writes it for `make docs`.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from hydra.utils import get_object

from lightning_modules.runtime import schema, signatures, system
from lightning_modules.runtime.trust import CONF, OURS

# Before them come the keys of conf/config.yaml; `parts` are fragments that options share.
GROUPS: tuple[str, ...] = ("system", "model", "balance", "data", "backbone", "tuner", "preset", "objective")
GROUPS += ("optimizer", "trainer", "callbacks", "logger", "debug", "experiment", "hydra", "parts")


class Key(NamedTuple):
    """path: dotted, as on the command line; value: as the file has it; target: what takes it, if a class or function."""

    path: str
    value: str
    comment: str
    target: str | None


class File(NamedTuple):
    """An option, or a fragment of some: its name from conf/ on, the comment at its top, its keys."""

    name: str
    head: str
    keys: list[Key]


def files(conf: Path = CONF) -> list[File]:
    """Every file of `conf` but the user's own, by group and name."""
    found = sorted(p for p in conf.rglob("*.yaml") if p.relative_to(conf).parts[0] != "local")
    return sorted((read(path, conf) for path in found), key=lambda file: (_group(file.name), file.name))


def _group(name: str) -> int:
    first = name.partition("/")[0]
    return GROUPS.index(first) + 1 if first in GROUPS else 0


def read(path: Path, conf: Path = CONF) -> File:
    """One file of `conf`, without the defaults list, which is no key."""
    text = path.read_text()
    lines = text.splitlines()
    name = str(path.relative_to(conf).with_suffix(""))
    first = next((n for n, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    head = [line.lstrip("# ").rstrip() for line in lines[:first] if "@package" not in line]
    return File(name, " ".join(filter(None, head)), list(_keys(yaml.compose(text), _package(name, text, conf), lines)))


def _package(name: str, text: str, conf: Path) -> str:
    """Where the keys of a file stand: what it says itself; of a part, where the options that take it put it; its group."""
    if own := re.search(r"^# @package (\S+)", text, re.M):
        return own[1].replace("_global_", "")
    group, _, last = name.rpartition("/")
    if "parts" in Path(name).parts:
        taking = re.compile(rf"^  - .*parts/{last}@([\w.]+)", re.M)
        found = [m[1] for path in sorted(conf.rglob("*.yaml")) if (m := taking.search(path.read_text()))]
        return found[0] if found else ""
    return group.replace("/", ".")


def _keys(node: Any, path: str, lines: list[str]) -> Iterator[Key]:
    """Leaves below a mapping; a mapping or list on one line is a leaf."""
    if not isinstance(node, yaml.MappingNode):
        return
    own = next((value.value for key, value in node.value if key.value == "_target_"), None)
    for key, value in node.value:
        full = f"{path}.{key.value}" if path else key.value
        if key.value in ("_target_", "defaults"):
            continue
        if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            yield from _keys(value, full, lines)
        else:
            yield Key(full, *_shown(key, value, lines), own)


def _shown(key: Any, value: Any, lines: list[str]) -> tuple[str, str]:
    """(value as it is written, its comment: behind it, else on the line above)."""
    first, last = value.start_mark, value.end_mark
    if first.line != last.line:
        text, behind = "\n".join(lines[first.line : last.line])[first.column :], ""
    else:
        text, behind = lines[first.line][first.column : last.column], lines[first.line][last.column :]
    comment = re.match(r"\s+#\s*(.*)$", behind)
    above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
    # Comments at the top of a file are of the file.
    own = above.startswith("#") and any(line and not line.startswith("#") for line in lines[: key.start_mark.line])
    return " ".join(text.split()), comment[1] if comment else above.lstrip("# ") if own else ""


def takers() -> dict[str, tuple[Callable[..., Any], str]]:
    """{path of a key: (what takes it at last, its name there)}: from `${...}` among the arguments of a `_target_`."""
    found: dict[str, tuple[Callable[..., Any], str]] = {}
    for file in files():
        for key in file.keys:
            origin = re.fullmatch(r"\$\{([\w.]+)\}", key.value.strip("\"'"))
            if origin and key.target and (function := _function(key.target)):
                found.setdefault(origin[1], (function, key.path.rpartition(".")[2]))
    plain = {path: schema.plain(path) for path in schema.PLAIN}
    plain |= system.of_all("PLAIN")
    for path, function in plain.items():
        for name in inspect.signature(function).parameters:
            found[f"{path}.{name}" if path else name] = (function, name)
    return found


def _function(target: str) -> Callable[..., Any] | None:
    # Optuna's own arguments are its affair, and it takes a second to import.
    return None if target.startswith(("builtins.", "optuna.")) else get_object(target)


def kind(function: Callable[..., Any], name: str) -> str:
    """What may stand there in words, such as `whole number >= 1 or null`; '' where the code does not say."""
    called = function.__init__ if inspect.isclass(function) else function
    hint = signatures.annotations(called).get(name)
    return "" if hint is None else _words(hint)


WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}


def _words(hint: Any) -> str:
    if hint in WORDS:
        return WORDS[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "__metadata__"):
        bounds = [
            f"{sign} {value:g}"
            for bound in hint.__metadata__
            for sign, field in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt"))
            if isinstance(value := getattr(bound, field, None), int | float)
        ]
        return " ".join([_words(hint.__origin__), " and ".join(bounds)]).strip()
    if origin in (list, tuple):
        inner = dict.fromkeys(filter(None, (_words(a) for a in arguments if a is not ...)))
        return "list" + (f" of {' and '.join(inner)}" if inner else "")
    if origin is dict or origin is Mapping:
        return "mapping"
    words = list(dict.fromkeys(filter(None, map(_words, arguments))))
    return " or ".join(w for w in words if w != "whole number" or "number" not in words)


def meaning(function: Callable[..., Any], name: str) -> str:
    """What the docstring of the code says of an argument, from its `name:` line on; of a library's one sentence."""
    texts = [inspect.getdoc(function) or ""]
    texts += [inspect.getdoc(function.__init__) or ""] if inspect.isclass(function) else []
    for text in texts:
        if told := re.search(rf"^( *){name}: (.*(?:\n\1 +.*)*)", text, re.M):
            said = " ".join(told[2].split())
            return said if function.__module__.startswith(OURS) else said.partition(". ")[0].replace("``", "`")
    return ""


def page(found: list[File]) -> str:
    """Markdown: a section a group, a part an option, a row a key."""
    taken, lines, group = takers(), [HEAD], None
    # A key is explained once in conf/, by the file that all options share.
    shared = {key.path: key.comment for file in reversed(found) for key in file.keys if key.comment}
    for file in found:
        first = file.name.partition("/")[0] if "/" in file.name else "top"
        if first != group:
            group = first
            lines.append(f"\n## {'Keys of every run' if group == 'top' else group}")
        lines.append(f"\n### {title(file.name)}" + f"\n\n{_head(file.head)}" * bool(file.head))
        if file.keys:
            lines.append("\n| key | as it comes | what may stand there | meaning |\n| --- | --- | --- | --- |")
        for key in file.keys:
            name = key.path.rpartition(".")[2]
            function, name = taken.get(key.path) or (_function(key.target) if key.target else None, name)
            if function is None and key.path.startswith("trainer."):
                function = schema.plain("trainer")
            may = kind(function, name) if function else ""
            told = key.comment or shared.get(key.path) or (meaning(function, name) if function else "")
            lines.append(f"| `{key.path}` | `{_cell(key.value) or ' '}` | {_cell(may)} | {_cell(told)} |")
    return "\n".join(lines) + "\n"


HEAD = """# Every group and key

Written from `conf/` and the code it describes when this site is made. A key is set on the command line as `KEY=VALUE`,
an option of a group as `GROUP=OPTION`. A value such as `${seed}` is that of another key. What may stand in a key is what
the command line and config are checked by before anything is made.
"""


def _head(text: str) -> str:
    """Of an experiment its three parts, a line each."""
    text = re.sub(r"(?:^| )(Run): (.*?)(?= Answers: |$)", r"\n- **\1.** `\2`", _cell(text))
    return re.sub(r"(?:^| )(Answers|Costs): ", r"\n- **\1.** ", text).strip()


def title(name: str) -> str:
    group, _, option = name.rpartition("/")
    if not group:
        return f"`conf/{name}.yaml`"
    if "parts" in Path(name).parts:
        return f"`{group}/{option}`, a part"
    first, _, rest = group.partition("/")
    return f"`experiment={rest}/{option}`" if first == "experiment" else f"`{group}={option}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(files()))
