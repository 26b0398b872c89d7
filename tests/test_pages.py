"""Every command of the README and docs/ is one that works: composed and checked as main.py does, or really run.

`<!-- run with: OVERRIDES -->` above a block makes its first command a run of that size. docs/systems.md has a test of its
own (tests/runtime/test_toy_system.py), and a recipe's command is composed in tests/runtime/test_recipes.py.
"""

import importlib.metadata
import re
import shlex
from importlib.util import find_spec

import pytest

from lightning_modules.runtime import config, preflight
from lightning_modules.runtime.recipes import recipes
from tests.runtime import cli
from tests.runtime.cli import PROJECT

DOCS = sorted([*(PROJECT / "docs").glob("*.md"), *(PROJECT / "docs" / "tour").glob("*.md")])
PAGES = [PROJECT / "README.md", *(page for page in DOCS if page.name != "systems.md")]
# Pages of words alone.
WORDS = {"concepts.md", "peers.md"}
MARK = r"<!-- run with: (.*) -->\n```bash\n(.*)\n"
KNOWN = [one.run for one in recipes()]


def commands(text):
    """Lines of its bash blocks, and what stands in the prose between backticks and is one."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    prose = " ".join(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).split())
    spans = re.findall(r"`((?:make |main\.py |python main\.py |\.venv/bin/|srun |experiment=[^`\s]+ )[^`]+)`", prose)
    return [line for block in blocks for line in block.splitlines() if line.strip()] + spans


def split(command):
    """Its words; `<run id>` stands for one of yours."""
    return shlex.split(command.replace("<run id>", "0a1b"), comments=True)


def composed(command):
    """Its arguments for main.py, or None where it starts something else."""
    words = split(command)
    if words[0].startswith("experiment="):
        return words
    # `look=` is no run: tests/look has its commands.
    looks = any(word.startswith("look=") for word in words)
    return words[words.index("main.py") + 1 :] if "main.py" in words and not looks else None


EVERY = {command: page.name for page in PAGES for command in commands(page.read_text())}
MAIN = {c: composed(c) for c in EVERY if composed(c) is not None}
OTHERS = [c for c in EVERY if c not in MAIN and "look=" not in c]
UNKNOWN = [c for c, given in MAIN.items() if shlex.join([".venv/bin/python", "main.py", *given]) not in KNOWN]


@pytest.fixture
def texts(tmp_path):
    """The folder `text` that the pages speak of."""
    for domain in ("law", "poems"):
        (tmp_path / "text" / domain).mkdir(parents=True)
        for number in range(40):
            words = " ".join(f"{domain} {number * 7 % 11} of {number}" for _ in range(20))
            (tmp_path / "text" / domain / f"{number}.txt").write_text(words)
    (tmp_path / "mvc.json").write_text("[]")
    return tmp_path


def test_there_are_commands():
    assert len(EVERY) > 60
    assert len(MAIN) > 35
    assert len(OTHERS) > 15
    assert {page.name for page in PAGES if not commands(page.read_text())} == WORDS


@pytest.mark.slow
@pytest.mark.parametrize("command", UNKNOWN)
def test_a_command_for_main_passes_preflight(command, eight_gpus, texts, monkeypatch):
    monkeypatch.chdir(texts)
    if command.startswith("srun"):
        words = dict(w.removeprefix("--").split("=", 1) for w in command.split() if w.startswith("--"))
        monkeypatch.setenv("SLURM_STEP_ID", "0")
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", words["ntasks-per-node"])
        monkeypatch.setenv("SLURM_NTASKS", str(int(words["nodes"]) * int(words["ntasks-per-node"])))
    config.register_resolvers(project=PROJECT)
    errors, cfg = preflight.examine([word for word in MAIN[command] if not word.startswith("-")])
    assert errors == []
    assert cfg is not None


@pytest.mark.parametrize("command", OTHERS)
def test_another_command_is_there(command):
    words = split(command)
    if words[0] == "make":
        makefile = (PROJECT / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word]
        assert targets
        for target in targets:
            assert re.search(rf"^{target}:.*## ", makefile, re.M), target
        for name in (word.partition("=")[0] for word in words[1:] if "=" in word):
            assert f"$({name})" in makefile, name
    elif words[1:2] == ["-m"]:
        assert find_spec(words[2])
    else:
        scripts = importlib.metadata.entry_points(group="console_scripts").names
        assert words[0].removeprefix(".venv/bin/") in scripts


def test_marked_commands_run(texts):
    """The others are too dear to run at every change."""
    marked = [found for page in PAGES for found in re.findall(MARK, page.read_text())]
    assert len(marked) == 1
    for overrides, command in marked:
        own = [word for word in composed(command) if not word.startswith("trainer.max_steps")]
        done = cli.main(texts, *own, *overrides.split(), smoke=False)
        assert len(done.results()) == 1
