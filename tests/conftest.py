import os

# One thread: golden losses are defined on one, and tiny models are slower on two.
# Whatever the shell says: with two, numpy and scipy start threads in the process that tests fork theirs from.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_modules.runtime import lean
from tests import charts, forks
from tests.reach import starts_processes

torch.set_num_threads(1)
charts.put_together_once()


def process_left_as_it_was():
    """The environment: what a test or a library sets in it would have the next start its processes anew.

    And which rank this is to Lightning, which takes it from there and keeps it.
    """
    before, rank = dict(os.environ), getattr(rank_zero_only, "rank", 0)
    yield
    rank_zero_only.rank = rank
    for name in {n for n in before.keys() | os.environ.keys() if before.get(n) != os.environ.get(n)}:
        if not name.startswith(forks.READ_LATE):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


# Round each test, and round what a file's tests share.
of_a_test = pytest.fixture(autouse=True)(process_left_as_it_was)
of_a_file = pytest.fixture(autouse=True, scope="module")(process_left_as_it_was)


@pytest.fixture
def eight_gpus(monkeypatch):
    """A node of eight GPUs without bfloat16, as far as preflight looks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: False)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Test files are imported in it."""
    with lean.uncollected():
        return (yield)


def pytest_collection_modifyitems(items):
    """`make test-fast` leaves out what starts processes: each of them imports torch and Lightning anew."""
    for item in items:
        fixtures = [d.func for found in item._fixtureinfo.name2fixturedefs.values() for d in found]
        if any(map(starts_processes, (item.function, *fixtures))):
            item.add_marker(pytest.mark.processes)
    # The files that take longest begin first, so that no worker is left alone with one of them (--no-loadscope-reorder).
    long = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in long)
