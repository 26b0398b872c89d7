"""Every experiment says what runs it, what it answers and costs; `--help` names what can be chosen, and nothing else."""

import re
import shlex

import pytest
from hydra import compose
from rich.console import Console

from lightning_modules.runtime import config, preflight
from lightning_modules.runtime.recipes import recipe, recipes, table
from tests.runtime.cli import PROJECT

RECIPES = recipes()
EXPERIMENTS = sorted(str(p.relative_to(PROJECT / "conf/experiment"))[:-5] for p in PROJECT.glob("conf/experiment/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("one", RECIPES, ids=lambda one: one.name)
def test_a_recipes_command_runs_its_experiment(one, eight_gpus):
    config.register_resolvers(project=PROJECT)
    python, main, *arguments = shlex.split(one.run)
    assert (python, main) == (".venv/bin/python", "main.py")
    assert f"experiment={one.name}" in arguments
    assert one.answers
    assert one.costs
    errors, cfg = preflight.examine([a for a in arguments if a != "-m"])
    # Where a command names a file of the user's, it has a letter.
    assert [e for e in errors if not re.search(r"=[A-Z]+ is not there", e)] == []
    assert cfg.experiment_name == one.name


def test_the_table_has_every_experiment_and_fits():
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(RECIPES))
    text = console.export_text()
    shown = set(re.findall(r"experiment=(\w+/\w+)", text))
    assert shown == set(EXPERIMENTS)
    assert len(shown) > 30
    assert max(map(len, text.splitlines())) <= 100


def test_a_file_without_its_recipe_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("# @package _global_\n# Run: main.py\n#   experiment=a\n# Costs: little\nx: 1\n")
    with pytest.raises(ValueError, match="a.yaml: begins without '# Answers: "):
        recipe(tmp_path / "a.yaml", name="a")


def help_text():
    config.register_resolvers(project=PROJECT)
    with preflight.composing():
        return compose("config", return_hydra_config=True).hydra.help.template


def test_help_names_every_group_and_option_and_no_other():
    text = help_text()
    told = {}
    # `group  purpose: option, option (what it is), ...`, the options going on over lines that are indented further.
    lines = re.findall(
        r"^  ([a-z]+) +(\S.*(?:\n {10,}.*)*)", text.partition("GROUPS")[2].partition("of sweeps")[0], re.M
    )
    for group, line in lines:
        options = re.sub(r"\([^)]*\)", "", line.rpartition(": ")[2])
        told.setdefault(group, set()).update(re.findall(r"\w+", options))
    hidden = {"experiment", "hydra", "callbacks", "parts", "local"}
    there = {
        group.name: {p.stem for p in group.glob("*.yaml")}
        for group in (PROJECT / "conf").iterdir()
        if group.is_dir() and group.name not in hidden
    }
    assert told == there


def test_help_names_every_experiment_and_no_other():
    told = help_text().partition("EXPERIMENTS")[2].partition("GROUPS")[0]
    # What is said between a semicolon and a colon is about the names after it.
    told = re.sub(r";[^:;]*:", "", re.sub(r"^.*\n", "", told))
    parts = re.split(r"(\w+)/", told)[1:]
    names = {
        f"{system}/{name}"
        for system, list_ in zip(parts[::2], parts[1::2], strict=True)
        for name in re.findall(r"\w+", list_)
    }
    assert names == set(EXPERIMENTS)


def test_help_fits_a_terminal_and_keeps_internals_out():
    lines = help_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 100
    assert not re.search(r"_target_|callbacks|Powered by", "\n".join(lines))
