"""A sample of the mixtures: `make families` walks them all."""

import pytest

from tests.families.moe import SAMPLE, verdict


@pytest.mark.slow
@pytest.mark.parametrize("family", SAMPLE)
def test_a_family_is_computed_as_it_computes_itself_or_refused(family):
    row = verdict(family)
    assert row["verdict"] == SAMPLE[family], row
