"""Imports between rooms and files run one way, and nobody calls what another file keeps to itself."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
ROOTS = ("lightning_modules", "datamodules")
# What an imported room may itself stand on: each is listed after all that it imports.
LAYERS = ("common", "look", "training", "runtime", "prompt", "moe", "skill_neurons", "transfer", "svco", "claims")


def name_of(path, project):
    parts = path.relative_to(project).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(project=PROJECT):
    """{module: syntax tree} of every file of the two packages."""
    paths = [p for root in ROOTS for p in sorted((project / root).rglob("*.py"))]
    return {name_of(p, project): ast.parse(p.read_text()) for p in paths}


def imported(tree, modules):
    """Modules of the project that a file imports, local and TYPE_CHECKING imports included."""
    found = set()
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "relative import"
            names = [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            found |= {name} - {""}
    return found


def arrows(trees):
    return {name: imported(tree, trees) - {name} for name, tree in trees.items()}


def room(module):
    """A folder; files of a root folder itself are the ground under its rooms and belong to none."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and (PROJECT / parts[0] / parts[1]).is_dir() else None


def between_rooms(edges):
    rooms = {}
    for name, targets in edges.items():
        if room(name):
            rooms.setdefault(room(name), set()).update({room(t) for t in targets} - {room(name), None})
    return rooms


def circle(graph):
    """The nodes of a circle, or nothing."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def trees():
    return sources()


@pytest.fixture(scope="module")
def edges(trees):
    return arrows(trees)


def test_no_circle_of_files(edges):
    assert circle(edges) == []


def test_no_circle_of_rooms(edges):
    assert circle(between_rooms(edges)) == []


def test_a_room_imports_only_rooms_below_it(edges):
    for name, targets in between_rooms(edges).items():
        if name.startswith("lightning_modules."):
            below = LAYERS[: LAYERS.index(name.split(".")[1])]
            own = {t.split(".")[1] for t in targets if t.startswith("lightning_modules.")}
            assert own <= set(below), name
        else:
            assert {t for t in targets if t.startswith("lightning_modules.")} <= {"lightning_modules.common"}, name


def test_a_circle_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def definitions(tree):
    """Functions, classes, and attributes that are set."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    nodes = list(ast.walk(tree))
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return {n.name for n in nodes if isinstance(n, kinds)} | attributes


def private(name):
    return name.startswith("_") and not name.startswith("__")


def trespasses(trees):
    """`module: name` for each private function, class or attribute of the project that another file uses."""
    own = {module: definitions(tree) for module, tree in trees.items()}
    # A NamedTuple's own methods are named like that too.
    everybodys = {n for names in own.values() for n in names if private(n)} - {"_replace", "_asdict"}
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []
            foreign = isinstance(node, ast.Attribute) and not (
                isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            )
            names += [node.attr] if foreign else []
            found += [f"{module}: {n}" for n in names if private(n) and n in everybodys - own[module]]
    return found


def test_nobody_uses_what_another_file_keeps_to_itself(trees):
    assert trespasses(trees) == []


@pytest.mark.parametrize("line", ["from lightning_modules.a import _hidden", "x.y._hidden()"])
@pytest.mark.parametrize("own", ["def _hidden(): ...", "self._hidden = 1"])
def test_a_trespass_is_found(own, line):
    trees = {"lightning_modules.a": ast.parse(own), "lightning_modules.b": ast.parse(line)}
    assert trespasses(trees) == ["lightning_modules.b: _hidden"]
