"""Synchronises the expert frequencies f_i across ranks and accumulation steps (Qiu et al. 2025, section 2.2).

Shape legend: L layers, M blocks of one forward, E experts, R ranks, A accumulation steps, X = E + 1 (the last column
carries the token count, so that one integer all-reduce serves both).
"""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.choices import check_choice
from lightning_modules.moe.losses import Frequency, selection_counts
from lightning_modules.moe.routing import RouterStats

MODES = ("ranks", "buffer", "two_pass", "shuffle")


class ExpertFrequencySync(pl.Callback):
    """A forward hook on the module's `expert_frequency`: every block gets the global batch's counts.

    Modes, from where the counts come:
        ranks: the M blocks of this forward on all ranks.
        buffer: the same, summed over the accumulation steps done so far (algorithm 1): step a sees steps 1..a.
        two_pass: all accumulation steps, counted by a first pass of forwards only: exact, one more forward.
        shuffle: each block gets the counts of a random block-sized draw of the global batch's tokens.

    Only f is synchronised; P stays local, so the ordinary mean over ranks and blocks of the loss is
    E sum_i f_i P_i over the global batch, also when ranks hold unequal numbers of valid tokens: a block's
    probability sum is divided by the mean tokens of a block in the global batch.

    Active from optimizer step `from_step` up to, not including, `until_step`. Validation is left alone.
    """

    def __init__(
        self, *, mode: str = "ranks", from_step: Whole = 0, until_step: Count | None = None, seed: Whole = 0
    ) -> None:
        check_choice("callbacks.expert_frequency_sync.mode", mode, MODES)
        self.mode, self.from_step, self.until_step, self.seed = mode, from_step, until_step, seed
        self.collectives = 0
        self.window_LX: Tensor | None = None
        self.window_steps = 0
        self.balance_blocks = 0
        self._whole_window: tuple[Tensor, int] | None = None
        self._handle: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self._handle is None:
            self._handle = pl_module.expert_frequency.register_forward_hook(partial(self._hook, trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def active(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step
        return trainer.training and step >= self.from_step and (self.until_step is None or step < self.until_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        first = batch_idx % trainer.accumulate_grad_batches == 0
        if self.mode == "two_pass" and first and self.active(trainer):
            self._whole_window = self._count_window(trainer, pl_module, batch_idx)

    def beside(self, module: Any, batch: Any) -> None:
        """What a micro-step costs beside its own forward and backward, for a plan to count."""
        if self.mode == "two_pass":
            with torch.no_grad():
                module.counts(batch)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        # Not on_before_zero_grad: Lightning calls that after the first micro-step of a window has been counted.
        self.reset()

    def reset(self) -> None:
        self.window_LX, self.window_steps, self._whole_window = None, 0, None

    def _hook(
        self, trainer: pl.Trainer, _module: nn.Module, args: tuple[RouterStats], frequency: Frequency
    ) -> Frequency | None:
        if not self.active(trainer):
            self.balance_blocks = 0
            return None
        return self._shuffled(trainer, args[0]) if self.mode == "shuffle" else self._global(trainer, args[0], frequency)

    def _global(self, trainer: pl.Trainer, stats: RouterStats, own: Frequency) -> Frequency:
        blocks, ranks = stats.blocks, trainer.world_size
        if self._whole_window is not None:
            window_LX, steps = self._whole_window
            tokens_L, forwards = window_LX[:, -1], ranks * steps
        else:
            step_LX = self._all_reduce(pack(own))
            tokens_L, forwards = step_LX[:, -1], ranks
            before_LX = self.window_LX if self.mode == "buffer" else None
            window_LX = step_LX if before_LX is None else before_LX + step_LX
            self.window_steps = 1 if before_LX is None else self.window_steps + 1
            self.window_LX, steps = window_LX, self.window_steps
        self.balance_blocks = blocks * ranks * steps
        counts_LME = window_LX[:, None, :-1].expand(-1, blocks, -1)
        return Frequency(counts_LME, mean_tokens(tokens_L, forwards * blocks, stats))

    def _shuffled(self, trainer: pl.Trainer, stats: RouterStats) -> Frequency:
        """Deal the global batch's tokens at random into as many blocks as it has, and give each block one deal."""
        ranks, rank, blocks = trainer.world_size, trainer.global_rank, stats.blocks
        local = stats.valid_T.shape[0]
        # The same permutation on every rank, another one at every forward.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + trainer.fit_loop.total_batch_idx)
        deal_T = torch.randperm(ranks * local, generator=generator)[rank * local : (rank + 1) * local]
        deal_T = (deal_T // (local // blocks)).to(stats.valid_T.device)
        counts_LDE = selection_counts(
            indices_LTK=stats.indices_LTK,
            valid_T=stats.valid_T,
            block_T=deal_T,
            blocks=ranks * blocks,
            experts=stats.experts,
        )
        tokens_L = stats.frequency.tokens_LM.sum(1)
        # Every deal's counts and the token count in one collective.
        packed = self._all_reduce(torch.cat([counts_LDE.flatten(1), tokens_L[:, None]], 1))
        counts_LDE = packed[:, :-1].view(counts_LDE.shape)
        self.balance_blocks = 1
        tokens_LM = mean_tokens(packed[:, -1], ranks * blocks, stats)
        return Frequency(counts_LDE[:, rank * blocks : (rank + 1) * blocks], tokens_LM)

    def _count_window(self, trainer: pl.Trainer, module: pl.LightningModule, batch_idx: int) -> tuple[Tensor, int]:
        """Counts of the whole accumulation window, from forwards of its own under the same random state.

        They are training's but for the graph: attention draws the same dropout masks and tokens go to the same experts.
        """
        steps = trainer.accumulate_grad_batches
        counted: list[Tensor] = []
        devices = range(torch.cuda.device_count())
        with torch.random.fork_rng(devices), torch.no_grad(), trainer.precision_plugin.train_step_context():
            for index in range(batch_idx, batch_idx + steps):
                batch = trainer.strategy.batch_to_device(trainer.datamodule.train_batch(index))
                counted.append(pack(module.counts(batch)))
        return self._all_reduce(torch.stack(counted).sum(0)), steps

    def _all_reduce(self, counts: Tensor) -> Tensor:
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.collectives += 1
            counts = counts.clone()
            dist.all_reduce(counts)
        return counts


def pack(frequency: Frequency) -> Tensor:
    """Counts and tokens summed over blocks, int64 [L, E + 1]."""
    return torch.cat([frequency.counts_LME.sum(1), frequency.tokens_LM.sum(1, keepdim=True)], 1)


def mean_tokens(tokens_L: Tensor, blocks: int, stats: RouterStats) -> Tensor:
    """Tokens of one of `blocks` blocks that hold `tokens_L` together, for each block of `stats`: [L, M].

    As wide as the probabilities are: a device may have no float64.
    """
    return (tokens_L.to(stats.probs_LTE.dtype) / blocks)[:, None].expand(-1, stats.blocks)
