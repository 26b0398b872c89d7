"""A tracking server that is away in whatever way costs no point and doubles none; the same counts are in soak.json."""

import pytest

from tests.robustness import outages
from tests.runtime.test_tracking import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("from_start", [False, True], ids=["in the middle", "from the start"])
@pytest.mark.parametrize("kind", outages.KINDS)
def test_no_point_is_lost_and_none_comes_twice(kind, from_start, server, tmp_path):
    assert outages.outage(kind, server=server, folder=tmp_path / "run", from_start=from_start) == (0, 0, 0)
