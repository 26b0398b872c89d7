"""Held-out examples over ranks: every rank gets as many batches, and none is left without one."""

from types import SimpleNamespace

import pytest

from datamodules.ordered import Batches, OrderedDataModule
from datamodules.scenes import PairsDataModule, SceneSource


class Numbers(Batches):
    def __getitems__(self, indices):
        return indices


class Data(OrderedDataModule):
    eval_batch = 4

    def __init__(self, size, *, ranks=1, rank=0):
        super().__init__()
        self.size, self.trainer = size, SimpleNamespace(world_size=ranks, global_rank=rank)

    def held_out_sizes(self):
        return {"val": self.size, "test": 9}


@pytest.mark.parametrize(("size", "ranks"), [(233, 2), (237, 4), (8, 2), (5, 1)])
def test_every_rank_gets_as_many_batches_and_no_example_comes_twice(size, ranks):
    loaders = [Data(size, ranks=ranks, rank=rank).each_once(Numbers(), range(size)) for rank in range(ranks)]
    sizes = [[len(batch) for batch in loader] for loader in loaders]
    assert all(own == sizes[0] for own in sizes)
    seen = sorted(number for loader in loaders for batch in loader for number in batch)
    assert seen == list(range(size // ranks * ranks))


def test_a_split_of_fewer_examples_than_ranks_is_refused():
    with pytest.raises(ValueError, match=r"the val split holds 1 for 2 ranks .* or take trainer.devices=1"):
        Data(1, ranks=2).setup("fit")
    Data(2, ranks=2).setup("fit")


def of_pairs(rank, **counts):
    data = PairsDataModule(source=SceneSource(**{"train": 4, "val": 6, "test": 7, **counts}), eval_batch=2)
    reader = SimpleNamespace(encode=lambda pair, images: pair)
    module = SimpleNamespace(vlm=SimpleNamespace(reader=reader))
    data.trainer = SimpleNamespace(world_size=3, global_rank=rank, is_global_zero=not rank, lightning_module=module)
    return data


def test_ranks_that_share_their_weights_have_equally_many_batches_of_pairs():
    found = [[len(batch.numbers) for batch in of_pairs(rank).test_dataloader()] for rank in range(3)]
    assert found == [[2]] * 3
    with pytest.raises(ValueError, match="the val split holds 2 for 3 ranks"):
        of_pairs(0, val=2).setup("fit")
