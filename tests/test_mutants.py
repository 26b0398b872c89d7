"""`make mutants` breaks what is there: a fault whose line has gone would break nothing."""

from pathlib import Path

from lightning_modules.runtime.sweep import PROJECT
from tests.mutants import MUTANTS


def test_every_fault_still_has_its_line_and_its_tests():
    for mutant in MUTANTS:
        assert mutant.old in Path(PROJECT / mutant.file).read_text(), mutant.name
        assert mutant.old != mutant.new, mutant.name
        assert all((PROJECT / path).exists() for path in mutant.tests.split()), mutant.name
