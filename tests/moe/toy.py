"""A tiny MoE on seeded random tokens: enough for what the Trainer does with the loss, in seconds."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.strategies import DDPStrategy
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from lightning_modules.moe import experts
from lightning_modules.moe.models import build_moe
from lightning_modules.moe.module import MoELM

WORDS, LENGTH = 64, 8


def tiny_model(family="qwen3_moe", **changes):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, layers=2, heads=2, kv_heads=2, experts=8, top_k=2, expert_width=16, max_positions=64)
    return build_moe(vocab_size=WORDS, family=family, **{**sizes, **changes})


def experts_as_on_a_gpu(monkeypatch):
    """The way of a GPU, which the CPU can go too."""
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "sorted", experts.grouped_experts)


def loader(batches):
    # A generator of its own: an iterator draws its seed when it starts, and the model's dropout must not notice.
    return torch.utils.data.DataLoader(batches, batch_size=None, generator=torch.Generator())


class ToyData(pl.LightningDataModule):
    """`steps` global batches of `sequences` sequences, sliced [accumulation, rank]; rank r of R sees its slice."""

    def __init__(self, *, sequences=16, steps=20, epoch_forwards=None):
        super().__init__()
        self.sequences, self.steps, self.epoch_forwards = sequences, steps, epoch_forwards
        self.domains = ["a", "b"]

    def train_batch(self, index, epoch=0):
        accumulate, ranks, rank = 1, 1, 0
        if self.trainer is not None:
            accumulate = self.trainer.accumulate_grad_batches
            ranks, rank = self.trainer.world_size, self.trainer.global_rank
        step, a = divmod(index, accumulate)
        # A skewed vocabulary that moves with the sequence, so that routing differs between micro-batches.
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        start_B = torch.randint(0, WORDS - 8, (self.sequences, 1), generator=generator)
        text_BS = start_B + torch.randint(0, 8, (self.sequences, LENGTH + 1), generator=generator)
        text = text_BS.view(accumulate, ranks, -1, LENGTH + 1)[a, rank]
        return {"input_ids": text[:, :-1], "targets": text[:, 1:], "domain": torch.zeros(len(text), dtype=torch.long)}

    def train_dataloader(self):
        forwards = self.epoch_forwards or self.steps * self.trainer.accumulate_grad_batches
        # A resumed epoch begins where it was left; Lightning counts on, so the length stays.
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return loader([self.train_batch(done + i) for i in range(forwards)])

    def test_dataloader(self):
        return self.val_dataloader()

    def val_dataloader(self):
        return loader([self.train_batch(0, epoch=9)])


class Documents(ToyData):
    """Of documents apart, the shorter the later they stand in a global batch, so that forwards differ in their targets."""

    END = 63

    def train_batch(self, index, epoch=0):
        batch = super().train_batch(index, epoch)
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        # Of the whole global batch, of which this is a part.
        often = torch.linspace(0, 0.7, self.sequences).view(accumulate, ranks, -1)[index % accumulate, rank][:, None]
        draw = torch.Generator().manual_seed(index // accumulate)
        drawn = torch.rand(self.sequences, LENGTH, generator=draw)
        ends = drawn.view(accumulate, ranks, -1, LENGTH)[index % accumulate, rank] < often
        ids = batch["input_ids"].masked_fill(ends, self.END)
        return {**batch, "input_ids": ids, "target_mask": ~ends, "document": ends.cumsum(1) - ends.long()}


class Padded(ToyData):
    """Padded on the right, the more the later they stand in a global batch, so that forwards differ in their tokens."""

    def train_batch(self, index, epoch=0):
        batch = super().train_batch(index, epoch)
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        lengths = torch.linspace(LENGTH, 2, self.sequences).long()
        own_B = lengths.view(accumulate, ranks, -1)[index % accumulate, rank]
        return {**batch, "attention_mask": (torch.arange(LENGTH) < own_B[:, None]).long()}


class Curve(pl.Callback):
    """Loss and LBL of every micro-step, and the gradient just before the optimizer step."""

    def __init__(self):
        self.loss, self.lbl, self.gradient = [], [], None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.loss.append(float(trainer.callback_metrics["train/loss"]))
        self.lbl.append(float(trainer.callback_metrics["moe/lbl"]))


def fit(
    *,
    callbacks=(),
    steps=20,
    ranks=1,
    accumulate=1,
    sequences=16,
    model=None,
    micro_batch=2,
    data=None,
    precision="32-true",
    strategy=None,
    curve=True,
    plugins=(),
    resume=None,
    logger=False,
    progress=False,
    **module,
):
    """(curve, module, trainer) of a fit under the real Trainer; under DDP one process calls this per rank."""
    pl.seed_everything(0, verbose=False)
    module = MoELM(
        model=model or tiny_model(), micro_batch=micro_batch, optimizer={"warmup_steps": 2, "lr": 3e-3}, **module
    )
    curve = Curve() if curve else None
    trainer = pl.Trainer(
        accelerator="cpu" if strategy is None or ranks > 1 else "auto",
        devices=ranks,
        precision=precision,
        plugins=list(plugins),
        strategy=strategy or (DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto"),
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        logger=logger,
        log_every_n_steps=1 if logger else 50,
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # The pretended device has no inference tensors.
        inference_mode=strategy is None or ranks > 1,
        val_check_interval=5,
        check_val_every_n_epoch=None,
        use_distributed_sampler=False,
        callbacks=[*([curve] if curve else []), *callbacks],
    )
    trainer.fit(
        module, datamodule=data or ToyData(sequences=sequences, steps=steps), ckpt_path=resume, weights_only=True
    )
    return curve, module, trainer


def fit_rank(rank, ranks, mode, accumulate, data=None, z_weight=0.001):
    """One DDP rank of a 20-step fit, for `tests.ranks.run_ranks`."""
    from lightning_modules.moe.callbacks.expert_frequency_sync import ExpertFrequencySync

    callbacks = [ExpertFrequencySync(mode=mode)] if mode else []
    settings = dict(ranks=ranks, accumulate=accumulate, z_weight=z_weight)
    curve, module, _ = fit(callbacks=callbacks, data=data and data(), **settings)
    return {"loss": curve.loss, "lbl": curve.lbl, "state": {k: v.clone() for k, v in module.state_dict().items()}}
