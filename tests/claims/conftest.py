import pytest

from tests.claims import claims


@pytest.fixture
def tables(tmp_path):
    """A folder of tables with the one claim that is made up."""
    claims.write(tmp_path / "tables")
    return tmp_path / "tables"
