"""The order of training windows: who sees what when, and exactly the same again after a stop."""

import functools
import operator
import subprocess
import sys

import numpy as np
import pytest

from datamodules.order import GlobalBatchSampler, global_batches, micro_batches_per_forward

SIZES = [37, 12, 90]
ORDER = dict(sizes=SIZES, micro_batch=4, global_batch=16, seed=3)


def domain_of(window):
    return int(np.searchsorted(np.cumsum(SIZES), window, side="right"))


def batches(layout, epoch=0, **changes):
    return global_batches(**{**ORDER, **changes}, layout=layout, epoch=epoch)


def test_both_layouts_hold_the_same_multiset_in_every_global_batch():
    homogeneous, mixed = batches("homogeneous"), batches("mixed")
    assert homogeneous.shape == mixed.shape == (8, 16)
    assert np.array_equal(np.sort(homogeneous, 1), np.sort(mixed, 1))
    assert not np.array_equal(homogeneous, mixed)


def test_a_homogeneous_micro_batch_is_of_one_domain_and_a_mixed_one_is_not():
    domains = np.vectorize(domain_of)
    assert all(len(set(m)) == 1 for m in domains(batches("homogeneous")).reshape(-1, 4))
    mixed = [len(set(m)) for m in domains(batches("mixed")).reshape(-1, 4)]
    assert np.mean(mixed) > 1.5


def test_no_window_comes_twice_in_an_epoch_and_epochs_differ():
    first, second = batches("homogeneous"), batches("homogeneous", epoch=1)
    assert len(np.unique(first)) == first.size
    assert first.max() < sum(SIZES)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batches("homogeneous", seed=4))


@pytest.mark.parametrize("layout", ["homogeneous", "mixed"])
@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_ranks_and_accumulation_share_out_each_global_batch(layout, ranks, accumulate):
    samplers = [
        GlobalBatchSampler(**ORDER, layout=layout, ranks=ranks, rank=r, accumulate=accumulate) for r in range(ranks)
    ]
    seen = list(zip(*samplers, strict=True))
    assert len(seen) == len(samplers[0]) == 8 * accumulate
    steps = [
        functools.reduce(operator.iadd, (list(w) for part in seen[s * accumulate :][:accumulate] for w in part), [])
        for s in range(8)
    ]
    # In the order [accumulation, rank, micro-batch]: what one rank with everything sees, cut into slices.
    assert np.array_equal(steps, batches(layout))


@pytest.mark.parametrize("stop", [0, 3, 7, 8, 11])
def test_a_sampler_goes_on_in_the_middle_and_at_the_end_of_an_epoch(stop):
    whole = list(GlobalBatchSampler(**ORDER, steps=20))
    resumed = GlobalBatchSampler(**ORDER, steps=20)
    resumed.start = stop
    assert list(resumed) == whole[stop:]
    assert len(resumed) == len(whole) == 20
    assert np.array_equal(whole[:8], batches("homogeneous"))
    assert np.array_equal(whole[8:16], batches("homogeneous", epoch=1))


def test_the_order_does_not_depend_on_the_hash_seed():
    code = "from datamodules.order import global_batches as g; print(g(sizes=[37, 12, 90], micro_batch=4, "
    code += "global_batch=16, seed=3, layout='mixed', epoch=0).tolist())"
    shown = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, capture_output=True, text=True, check=True
        ).stdout
        for h in ("0", "1")
    ]
    assert shown[0] == shown[1] == f"{batches('mixed').tolist()}\n"


def test_sizes_that_do_not_divide_name_the_nearest():
    with pytest.raises(ValueError, match=r"data.global_batch is 30 .* = 16; the nearest is 32"):
        micro_batches_per_forward(global_batch=30, micro_batch=4, accumulate=2, ranks=2)
    assert micro_batches_per_forward(global_batch=32, micro_batch=4, accumulate=2, ranks=2) == 2


def test_too_little_text_for_one_step_and_an_unknown_layout():
    with pytest.raises(ValueError, match="fewer than one data.global_batch of 64"):
        batches("mixed", sizes=[9, 9], global_batch=64)
    with pytest.raises(ValueError, match="data.layout is 'sorted'; expected one of homogeneous, mixed"):
        batches("sorted")
