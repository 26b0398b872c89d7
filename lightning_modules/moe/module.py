"""The LightningModule round the MoE language model: forward, step, optimizer.

Shape legend: B sequences of S tokens in one forward, V words, L layers, M blocks, K selected experts, E experts.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.common import metric_names as names
from lightning_modules.common.bounds import Count, Weight
from lightning_modules.common.optimizer import adamw_with_schedule
from lightning_modules.moe.attention import apart, mask_for
from lightning_modules.moe.compiled import compiled
from lightning_modules.moe.families import FAMILIES
from lightning_modules.moe.head import Head
from lightning_modules.moe.losses import Frequency, load_balancing_loss, router_z_loss
from lightning_modules.moe.model_card import card
from lightning_modules.moe.models import check_words, count_parameters, export
from lightning_modules.moe.routing import ExpertFrequency, RouterStats, RouterTap
from lightning_modules.moe.targets import MASKS, counted, valid
from lightning_modules.training.one_mean import mean_counts
from lightning_modules.training.trained import look_for_unused


class MoELM(pl.LightningModule):
    """Next-token cross-entropy + weight x LBL (+ a micro-batch share of it) + z-loss.

    Args:
        model: a transformers MoE causal LM (`lightning_modules.moe.models.build_moe`).
        micro_batch: sequences of one micro-batch, m; a forward of B sequences carries B / m of them.
        weight: of the load-balancing loss (0.008 in the paper); 0 switches it off.
        block: sequences over which f is computed inside the forward: None is the micro-batch, 1 the sequence.
        micro_weight: share of the micro-batch LBL added beside a synchronised one (0.01 in the paper).
        z_weight: of the router z-loss.
        layer_reduction: `mean` or `sum` of the LBL over layers.
        optimizer: plain arguments of `adamw_with_schedule`.
        compile: torch.compile for the model without its head, in one graph without a break.
    """

    also_forwards = ("counts",)
    # Of transformers' pipelines, the one that runs an export.
    pipeline = "text-generation"
    _read_step = 0
    # Of targets and tokens in this optimizer step; None where all its forwards have as many.
    _mean_counts: Tensor | None = None

    def __init__(
        self,
        *,
        model: nn.Module,
        micro_batch: Count = 4,
        weight: Weight = 0.008,
        block: Count | None = None,
        micro_weight: Weight = 0.0,
        z_weight: Weight = 0.001,
        layer_reduction: str = "mean",
        optimizer: dict[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if block is not None and (block < 1 or max(block, micro_batch) % min(block, micro_batch)):
            raise ValueError(
                f"balance.block is {block} sequences; expected a divisor or a multiple of data.micro_batch, "
                f"which is {micro_batch}."
            )
        self.model = model
        self.micro_batch = micro_batch
        self.weight, self.block, self.micro_weight, self.z_weight = weight, block, micro_weight, z_weight
        self.layer_reduction = layer_reduction
        self.optimizer_args = dict(optimizer or {})
        self.tap, self.head = RouterTap(model), Head(model)
        # The head puts hidden states in the body's place, which a body that is compiled itself would not take.
        self._compiled = compiled(self.head.body) if compile else None
        self.expert_frequency = ExpertFrequency()
        self.last_routing: RouterStats | None = None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, document: Tensor | None = None
    ) -> Tensor:
        """Logits [B, S, V]; the routing of this forward is then at `self.tap.read()`."""
        self.tap.clear()
        seen = self._seen(attention_mask, document)
        return self.model(input_ids=input_ids, use_cache=False, **seen).logits

    def hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """What the output layer reads, [B, S, H]; the routing is then at `self.tap.read()`.

        batch: input_ids [B, S]; attention_mask says which are no padding, `document` which document each token is of.
        """
        self.tap.clear()
        seen = self._seen(batch.get("attention_mask"), batch.get("document"))
        body = self._compiled or self.head.body
        return body(input_ids=batch["input_ids"], use_cache=False, **seen).last_hidden_state

    def _seen(self, valid_BS: Tensor | None, document_BS: Tensor | None) -> dict[str, Any]:
        if document_BS is not None:
            assert valid_BS is None, "windows of several documents have no padding"
            return apart(self.model, document_BS)
        return {"attention_mask": mask_for(self.model, valid_BS)}

    def routing(self, batch: dict[str, Tensor], block: int | None = None) -> RouterStats:
        """The last forward's routing cut into blocks of `block` sequences (default: the balance scope's)."""
        size = block or self.block or self.micro_batch
        sequences = batch["input_ids"].shape[0]
        if sequences % size:
            raise ValueError(
                f"balance.block (or data.micro_batch) is {size} sequences, which does not divide the "
                f"{sequences} sequences of one forward; choose a divisor of {sequences}."
            )
        logits_LTE, indices_LTK = self.tap.read()
        mask = batch.get("attention_mask")
        valid_T = torch.ones_like(indices_LTK[0, :, 0], dtype=torch.bool) if mask is None else mask.flatten().bool()
        assert self.tap.scoring is not None
        return RouterStats(logits_LTE, indices_LTK, valid_T, sequences // size, self.tap.scoring)

    def counts(self, batch: dict[str, Tensor]) -> Frequency:
        """Of a forward made for them alone."""
        self.hidden(batch)
        return self.routing(batch).frequency

    def setup(self, stage: str) -> None:
        if (tokenizer := getattr(self.trainer.datamodule, "tokenizer", None)) is not None:
            check_words(self.model, tokenizer)
        if self.head.model.config.model_type not in FAMILIES:
            look_for_unused(self.trainer)  # Indexers that only choose, or experts that no token of a batch goes to.

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        steps, ranks = self.trainer.accumulate_grad_batches, self.trainer.world_size
        if steps * ranks > 1 and MASKS & set(batch) and batch_idx % steps == 0:
            self._mean_counts = mean_counts(self, batch, batch_idx, counted=counted)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Any]:
        hidden_TH = self.hidden(batch).flatten(0, 1)
        valid_BS = valid(batch)
        ce = self.head.loss(hidden_TH, batch["targets"].flatten(), valid_BS.flatten())
        stats = self.routing(batch)
        z_loss = router_z_loss(logits_LTE=stats.logits_LTE, valid_T=stats.valid_T, layer_reduction=self.layer_reduction)
        if self._mean_counts is not None:
            own_2 = torch.stack([valid_BS.sum(), stats.valid_T.sum()])
            ce_share, z_share = own_2 / self._mean_counts.clamp(min=1e-9)
            ce, z_loss = ce * ce_share, z_loss * z_share
        # With the frequencies that `expert_frequency`, or a callback's hook on it, hands back.
        lbl = self.lbl(stats, self.expert_frequency(stats))
        loss = ce + self.weight * lbl
        if self.micro_weight:
            micro = stats.regrouped(batch["input_ids"].shape[0] // self.micro_batch)
            loss = loss + self.weight * self.micro_weight * self.lbl(micro, micro.frequency)
        loss = loss + self.z_weight * z_loss
        self.log_dict({names.TRAIN_LOSS: loss.detach(), names.MOE_LBL: lbl.detach()}, prog_bar=True)
        self.log_dict({names.TRAIN_CE: ce.detach(), names.MOE_Z_LOSS: z_loss.detach()})
        self.last_routing = stats
        return {"loss": loss}

    def lbl(self, stats: RouterStats, frequency: Frequency) -> Tensor:
        return load_balancing_loss(
            frequency=frequency, prob_sums_LME=stats.prob_sums_LME, layer_reduction=self.layer_reduction
        )

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self.evaluate(batch)

    test_step = validation_step

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Per-sequence summed negative log-likelihood [B] in nats and tokens [B], with the routing by sequence."""
        hidden_TH = self.hidden(batch).flatten(0, 1)
        valid_BS = valid(batch)
        nll_BS = self.head.nll(hidden_TH, batch["targets"].flatten()).view_as(batch["targets"])
        nll_BS = torch.where(valid_BS, nll_BS, nll_BS.new_zeros(()))
        return {"nll_B": nll_BS.sum(1), "tokens_B": valid_BS.sum(1), "stats": self.routing(batch, block=1)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A test reads the best weights, which are those that are exported; a fit goes on from the ones that it reads.
        if self._trainer is None or self._trainer.state.fn != "fit":
            self._read_step = checkpoint["global_step"]

    def count_parameters(self) -> dict[str, int]:
        return count_parameters(self.model)

    def export(self, folder: Path, *, datamodule: Any) -> Path:
        """A directory for AutoModelForCausalLM and AutoTokenizer, with a model card."""
        # transformers' loss is of all layers together, which a sum over them is that many times of.
        layers = len(self.tap.routers) if self.layer_reduction == "sum" else 1
        export(self.model, datamodule.tokenizer, folder, weight=self.weight * layers)
        trainer = self._trainer
        metrics = {n: float(v) for n, v in trainer.callback_metrics.items()} if trainer else {}
        about = {"load-balancing weight": self.weight, "z-loss weight": self.z_weight, **self.optimizer_args}
        sheet = datamodule.datasheet() if hasattr(datamodule, "datasheet") else []
        steps = self._read_step or self.global_step
        (folder / "README.md").write_text(card(self.model, metrics=metrics, steps=steps, data=sheet, training=about))
        return folder

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return adamw_with_schedule(module=self.model, total_steps=steps, **self.optimizer_args)
