"""What every datamodule shares: training batches in the exact order of `datamodules.order`, and an exact resume."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.order import GlobalBatchSampler

Batch = dict[str, Any]


class Batches(Dataset[Any]):
    """A data set that is asked for a whole batch at once; `sizes` are its examples per domain."""

    sizes: list[int]

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitems__(self, indices: list[int]) -> Any:
        raise NotImplementedError


B = TypeVar("B", bound=Batches)


def same(batch: Any) -> Any:
    return batch


def _steps(trainer: pl.Trainer) -> int:
    if trainer.max_steps < 1:
        raise ValueError(
            f"trainer.max_steps is {trainer.max_steps}; expected the optimizer steps of the run: runs are not counted in "
            "epochs."
        )
    return trainer.max_steps


class OrderedDataModule(pl.LightningDataModule, Generic[B]):
    """Needs `read` and `fingerprint()`, the attributes set here, and `eval_batch` where it calls `each_once`."""

    micro_batch: int = 1
    layout: str = "homogeneous"
    # Processes that load training batches, and those of validation and test.
    workers: int = 0
    eval_workers: int = 0
    eval_batch: int
    global_batch: int
    seed: int
    _done = 0

    def __init__(self) -> None:
        super().__init__()
        self._examples: dict[str, B] = {}

    def read(self, split: str) -> B:
        """The examples of train, val or test."""
        raise NotImplementedError

    def examples(self, split: str) -> B:
        """The same, read once."""
        if split not in self._examples:
            self._examples[split] = self.read(split)
        return self._examples[split]

    @property
    def training(self) -> B:
        return self.examples("train")

    def fingerprint(self) -> dict[str, str]:
        raise NotImplementedError

    def held_out_sizes(self) -> dict[str, int]:
        """Examples of validation and test, where `each_once` shares them out."""
        return {}

    def setup(self, stage: str) -> None:
        """ValueError where a rank would find a held-out split empty, which it else says when all is trained."""
        ranks = self._ranks[0]
        for split, size in self.held_out_sizes().items():
            if size < ranks:
                raise ValueError(
                    f"the {split} split holds {size} for {ranks} ranks (trainer.devices x trainer.num_nodes); expected at "
                    f"least one for each: bring more, or take trainer.devices={max(1, size)}."
                )

    @property
    def _ranks(self) -> tuple[int, int]:
        """(ranks, this one's number)."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    @cached_property
    def sampler(self) -> GlobalBatchSampler:
        trainer = self.trainer
        ranks, rank = self._ranks
        sampler = GlobalBatchSampler(
            sizes=self.training.sizes,
            micro_batch=self.micro_batch,
            global_batch=self.global_batch,
            layout=self.layout,
            seed=self.seed,
            accumulate=trainer.accumulate_grad_batches if trainer else 1,
            ranks=ranks,
            rank=rank,
            steps=_steps(trainer) if trainer else None,
        )
        sampler.start = self._done
        return sampler

    def train_batch(self, forward: int) -> Any:
        """Exactly what this rank's training loader yields as forward `forward` of the run."""
        return self.training.__getitems__(self.sampler.forward_windows(forward))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            self.training,
            batch_sampler=self.sampler,
            collate_fn=same,
            num_workers=self.workers,
            # A generator of its own: the model's dropout must not depend on when an iterator starts.
            generator=torch.Generator().manual_seed(self.seed),
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> DataLoader:
        return self.fixed("val")

    def test_dataloader(self) -> DataLoader:
        return self.fixed("test")

    def fixed(self, split: str) -> DataLoader:
        """Every example of a split once, in its order."""
        examples = self.examples(split)
        return self.each_once(examples, range(len(examples)))

    def each_once(self, examples: B, numbers: Sequence[int]) -> DataLoader:
        """`numbers` of `examples` once, in their order and `eval_batch` a forward; ranks take turns."""
        ranks, rank = self._ranks
        # A rank with a batch more would wait for the others for ever: what does not divide is left out, never given twice.
        own = list(numbers[: len(numbers) // ranks * ranks][rank::ranks])
        return DataLoader(
            examples,
            batch_sampler=[own[i : i + self.eval_batch] for i in range(0, len(own), self.eval_batch)],
            collate_fn=same,
            num_workers=self.eval_workers,
            # An iterator draws its seed when it starts, and nothing else must notice.
            generator=torch.Generator(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Forwards done, by the trainer's count: the sampler is ahead of it when workers read ahead."""
        assert self.trainer is not None
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return {"forwards": total.processed, "fingerprint": self.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the saved forward. ValueError when the text, split, tokenizer or order is another one."""
        then, now = state_dict["fingerprint"], self.fingerprint()
        if changed := [name for name, value in then.items() if now.get(name) != value]:
            parted = ", ".join(f"{then[name]} then, {now.get(name, 'none')} now" for name in changed)
            raise ValueError(
                f"this run was started on other data: the fingerprint of {', '.join(changed)} has changed "
                f"({parted}). Restore it, or start anew with fresh=true."
            )
        self._done = state_dict["forwards"]
        self.__dict__.pop("sampler", None)
