"""Pages: links and figures are there, drawings are those of the code, the reference has every key of conf/."""

import re
import sys

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from lightning_modules.runtime import reference
from tests.runtime.cli import PROJECT

SITE = PROJECT / "docs" / "site"
PAGES = [PROJECT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md")]
PAGES += sorted((PROJECT / "docs").rglob("*.md"))


def slugs(path):
    """Anchors of a page, as code hosts and MkDocs make them of headings, and those written out."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    plain = (re.sub(r"<[^>]*>|[`*]", "", h).strip().lower() for h in headings)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", h)) for h in plain} | set(re.findall(r'id="([^"]+)"', text))


def dead(path):
    """Links and pictures of a page whose file or heading is not there."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in slugs(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_and_figures_are_there(page):
    assert dead(page) == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.md").write_text("# A b\n[x](#a-b) [y](#c) [z](b.md)\n![p](p.png)\n```\n[no](no.md)\n```\n")
    assert dead(tmp_path / "a.md") == ["#c", "b.md", "p.png"]


def test_the_site_names_every_page():
    text = (PROJECT / "mkdocs.yml").read_text()
    pages = [str(p.relative_to(PROJECT / "docs")) for p in PAGES if "docs" in p.relative_to(PROJECT).parts]
    assert len(pages) > 15
    assert [name for name in pages if f" {name}\n" not in text] == []


def test_nothing_of_the_site_is_fetched_when_it_is_read():
    config = yaml.safe_load((PROJECT / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert not any("//" in entry for key in ("extra_css", "extra_javascript") for entry in config.get(key, []))


def test_drawings_are_those_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))
    import drawings

    written = {p.stem: p.read_text() for p in drawings.FOLDER.glob("*.svg")}
    assert written == {name: draw().svg() for name, draw in drawings.DRAWINGS.items()}
    for name in ("drawings", "drawing"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def text():
    return reference.page(reference.files())


def leaves(node, path=""):
    for key in node:
        full = f"{path}.{key}" if path else str(key)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_interpolation() and not child._is_missing() and len(child):
            yield from leaves(child, full)
        elif key not in ("_target_", "defaults"):
            yield full


def test_the_reference_has_every_key(text):
    files = [p for p in (PROJECT / "conf").rglob("*.yaml") if "local" not in p.parts]
    assert len(files) > 80
    for path in files:
        title = re.escape(reference.title(str(path.relative_to(PROJECT / "conf").with_suffix(""))))
        section = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", text, re.M | re.S)
        assert section, path
        told = re.findall(r"^\| `([^`]+)` ", section[1], re.M)
        for key in leaves(OmegaConf.load(path)):
            # A mapping on one line is one key.
            names = [key[: m.start()] for m in re.finditer(r"\.|$", key)]
            assert any(f".{t}".endswith(f".{name}") for t in told for name in names), (path, key)


def test_the_reference_says_what_may_stand_in_a_key(text):
    rows = dict(re.findall(r"^\| `([^`]+)` \| `[^`]*` \| (.*) \|$", text, re.M))
    assert rows["balance.weight"] == "number >= 0 | of the load-balancing loss, as in the paper"
    assert rows["balance.block"].startswith("whole number >= 1 or null | sequences over which f is computed")
    assert rows["optimizer.lr"].startswith("number > 0")
    assert rows["trainer.max_steps"].startswith("whole number | Stop training after this number of steps")
    assert rows["plan"].startswith("true or false | true: say what the run would take")


def test_a_comment_belongs_to_its_key(tmp_path):
    (tmp_path / "g").mkdir()
    text = "# The file.\na: 1  # of a\n# of b\nb: [1, 2]\nc: 'x # y'\nd:\n  e: {f: 1}  # of e\n"
    (tmp_path / "g" / "o.yaml").write_text(text)
    file = reference.read(tmp_path / "g" / "o.yaml", tmp_path)
    assert file.head == "The file."
    told = {key.path: (key.value, key.comment) for key in file.keys}
    assert told == {
        "g.a": ("1", "of a"),
        "g.b": ("[1, 2]", "of b"),
        "g.c": ("'x # y'", ""),
        "g.d.e": ("{f: 1}", "of e"),
    }
