"""A sample of the wrong commands that `make errors` gives, refused in this process; and what its last run found."""

import json

import pytest

from lightning_modules.runtime import config, preflight
from tests.robustness.errors import RESULT, is_clear, placed
from tests.robustness.wrong_commands import COMMANDS, MAKE, furnish
from tests.runtime.cli import PROJECT

# Of what preflight alone refuses; the others have to be started.
KINDS = (
    "keys",
    "options",
    "types",
    "ranges",
    "choices",
    "sweeps",
    "tracking",
    "what Facet decides",
    "taken away",
    "metrics",
)
SAMPLE = [(kind, command) for kind in KINDS for command in COMMANDS[kind][::4]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("wrong")
    furnish(made)
    config.register_resolvers(project=PROJECT)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "command"), SAMPLE, ids=[command for _, command in SAMPLE])
def test_a_wrong_command_is_refused_in_words(folder, kind, command):
    given = preflight.read(placed(command, folder))
    errors, _ = preflight.examine(given.overrides, multirun=given.multirun)
    assert errors
    assert all(len(error) < 700 and "Traceback" not in error for error in errors)


def test_every_command_was_answered_clearly():
    rows = json.loads(RESULT.read_text())
    given = [*(f"main.py {command}" for some in COMMANDS.values() for command in some), *MAKE]
    assert [row["command"] for row in rows] == given
    assert len(given) > 300
    assert [row["command"] for row in rows if not is_clear(row)] == []
