"""What `make test-fast` leaves out: tests that start processes, by whatever way."""

import subprocess

import pytest

from tests.ranks import run_ranks
from tests.reach import starts_processes
from tests.robustness import runs
from tests.runtime import cli
from tests.runtime.test_tracking import Server


def directly():
    subprocess.run(["true"], check=True)


def by_a_helpers_helper():
    runs.finish("folder")


def in_a_function_of_its_own():
    return [cli.main(place) for place in "ab"]


def on_ranks():
    run_ranks(print, 2)


def not_at_all():
    assert cli.PROJECT.name != runs.STEPS


@pytest.mark.parametrize("function", [directly, by_a_helpers_helper, in_a_function_of_its_own, on_ranks, Server])
def test_a_process_is_found(function):
    assert starts_processes(function)


def test_none_is_found_where_none_is():
    assert not starts_processes(not_at_all)


def test_it_is_marked(request):
    subprocess.run(["true"], check=True)
    assert request.node.get_closest_marker("processes")
