"""The LightningModule round a vision-language model: an objective on contrasting pairs. Shape legend: B pairs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.scenes.reader import Encoded
from lightning_modules.common import metric_names as names
from lightning_modules.common.optimizer import adamw_with_schedule
from lightning_modules.svco.losses import Objective
from lightning_modules.svco.models import VLM, export
from lightning_modules.svco.scores import pair_scores, response_tokens
from lightning_modules.training.inner import InnerTrainer
from lightning_modules.training.trained import SavesWhatTrains, look_for_unused

CHOICE = ("ww", "wl", "lw", "ll")
REFERENCE = "reference_scores"


class SVCO(SavesWhatTrains):
    """S-VCO, or one of its peers: what differs is the objective.

    Args:
        model: `VLM` (`pretrained_vlm` or `load_vlm`).
        objective: `Objective`. `cached` reference scores are computed once, of all pairs, before the first step; with
            `live` they are computed in every step, by a frozen copy or, with LoRA, by the model without its adapters.
        optimizer: plain arguments of `adamw_with_schedule`.
    """

    decided_by = "model.freeze_vision or model.lora_rank"
    also_forwards = ("_scores_of_all", "asked")

    def __init__(self, *, model: VLM, objective: Objective, optimizer: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.vlm, self.objective, self.optimizer_args = model, objective, dict(optimizer or {})
        # Not a submodule: it is not trained, not saved, and the same before and after a resume.
        self._frozen: list[VLM] = []
        if objective.reference == "live" and not model.adapted:
            self._frozen.append(copy.deepcopy(model).eval().requires_grad_(False))
        self._cache: dict[str, dict[str, Tensor]] = {}
        self.cut = 0

    def setup(self, stage: str) -> None:
        look_for_unused(self.trainer)  # A tower that trains may have a layer, norm or pooler behind its features.
        if stage == "fit":
            source = self.trainer.datamodule.source
            if getattr(source, "one_picture", False) and (two := [s for s in self.objective.needs if s[0] == "l"]):
                raise ValueError(
                    f"the objective reads the scores {', '.join(two)}, of answers under a second picture, and the rows of "
                    f"{source.name} have one: no field 'rejected_images'. Expected an objective of one picture, such as "
                    "objective=dpo or sft, or pairs of two (data=mvc)."
                )
            if self.trainer.is_global_zero and not isinstance(self.trainer, InnerTrainer):
                of = self.count_parameters()
                print(f"{of['total'] - of['trained']:,} of {of['total']:,} parameters are frozen ({self.decided_by}).")
            counts = {name: self.trainer.datamodule.examples(name).cut_and_alike() for name in ("train", "val")}
            self.cut, alike = map(sum, zip(*counts.values(), strict=True))
            if alike and self.trainer.is_global_zero:
                print(
                    f"Warning: {alike} pairs have one response twice to the model: of words that it knows not, or cut."
                )
            if self.cut and self.trainer.is_global_zero:
                print(
                    f"{self.cut} responses are longer than model.max_response={self.vlm.reader.max_response} tokens and "
                    "are cut."
                )
                if intake := getattr(source, "intake", None):
                    intake.cut.update({name: cut for name, (cut, _) in counts.items()})
                    intake.tell()

    def on_fit_start(self) -> None:
        """Reference scores of every pair, by the model on its device; a resumed run has those of its checkpoint."""
        if self.objective.reference == "cached" and not self._cache:
            for split in ("train", "val"):
                data = self.trainer.datamodule
                # In the precision of the steps that they are held against.
                with self.trainer.precision_plugin.val_step_context():
                    self._cache[split] = self._scores_of_all(data.examples(split), batch=data.eval_batch)
        # A model comes from transformers in evaluation; dropout and checkpointing are of training.
        self.vlm.train()
        here = self.device
        self._cache = {split: {n: v.to(here) for n, v in scores.items()} for split, scores in self._cache.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[REFERENCE] = {split: dict(scores) for split, scores in self._cache.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.objective.reference == "cached" and not checkpoint.get(REFERENCE):
            raise ValueError(
                "the checkpoint holds no reference scores: it was written with another objective.reference or by an "
                "earlier version. Restore that, or start anew with fresh=true."
            )
        self._cache = {split: dict(scores) for split, scores in checkpoint.get(REFERENCE, {}).items()}

    @torch.no_grad()
    def _scores_of_all(self, data: Any, batch: int) -> dict[str, Tensor]:
        """[pairs] by name, each rank every so manieth batch: the batches are those of one rank alone."""
        self.vlm.eval()
        needs, ranks, rank = self.objective.needs, self.trainer.world_size, self.trainer.global_rank
        starts = range(0, len(data), batch)
        # Every rank goes through equally many, as what a strategy has sharded is gathered in step.
        rounds = -(-len(starts) // ranks)
        mine: list[Tensor] = []
        for number in range(rounds):
            start = starts[min(number * ranks + rank, len(starts) - 1)]
            pairs = [data[i] for i in range(start, min(start + batch, len(data)))]
            found = pair_scores(self.vlm, pairs, needs)
            scores_BS = torch.stack([found[name] for name in needs], 1)
            mine.append(nn.functional.pad(scores_BS, (0, 0, 0, batch - len(pairs))))
        mine_NBS = torch.stack(mine)
        every_NRBS = self.all_gather(mine_NBS).movedim(0, 1) if ranks > 1 else mine_NBS[:, None]
        every_PS = every_NRBS.flatten(0, 2)[: len(data)]
        return dict(zip(needs, every_PS.unbind(1), strict=True))

    def asked(self, work: Callable[[], Any]) -> Any:
        """What `work` returns: the way to ask the model beside Lightning's steps, as a strategy that shards its weights has
        to put together those that stand outside the layers. All processes have to ask then (`sharded.all_take_part`)."""
        return work()

    @torch.no_grad()
    def reference(self, pairs: list[Encoded], numbers: list[int], split: str) -> dict[str, Tensor] | None:
        """Scores of the untrained model, [B] by name; None for a reference-free objective."""
        kind = self.objective.reference
        if kind == "none":
            return None
        if kind == "cached":
            return {name: value[numbers] for name, value in self._cache[split].items()}
        if self._frozen:
            # In the dtype that the trainer's precision gave the model that trains.
            self._frozen[0].to(self.device, self.vlm.core.dtype)
            return pair_scores(self._frozen[0], pairs, self.objective.needs)
        with self.vlm.net.disable_adapter():
            return pair_scores(self.vlm, pairs, self.objective.needs)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As it is: pairs are packed where they lie, and what is packed goes to the device in one piece."""
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores = pair_scores(self.vlm, batch.pairs, self.objective.needs)
        some = next(iter(scores.values()))
        terms = self.objective.terms(
            scores=scores,
            tokens=response_tokens(batch.pairs, like=some),
            reference=self.reference(batch.pairs, batch.numbers, "train"),
        )
        loss = torch.stack(list(terms.values())).sum(0).mean()
        self.log(names.TRAIN_LOSS, loss.detach(), prog_bar=True, batch_size=len(batch.pairs))
        self.log_dict({names.svco_term(t): v.detach().mean() for t, v in terms.items()}, batch_size=len(batch.pairs))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        choice = choice_of(batch.pairs)
        needs = tuple(dict.fromkeys((*self.objective.needs, *choice)))
        scores = pair_scores(self.vlm, batch.pairs, needs)
        tokens = response_tokens(batch.pairs, like=scores["ww"])
        loss = self.objective(scores=scores, tokens=tokens, reference=self.reference(batch.pairs, batch.numbers, "val"))
        right_B = paired_right(scores).float()
        own = {s: scores[s].sum() for s in ("ww", "ll") if s in choice}
        counted = sum(tokens[s[1]].sum() for s in own)
        nll = -sum(own.values()) / counted
        size = len(batch.pairs)
        self.log(names.VAL_SVCO_LOSS, loss, batch_size=size, sync_dist=True)
        self.log(names.VAL_PAIRED, right_B.mean(), prog_bar=True, batch_size=size, sync_dist=True)
        # A mean over tokens, however the pairs are dealt out to batches and ranks, whose mean count Lightning rounds down.
        self.log(names.VAL_PAIR_NLL, nll, batch_size=int(counted) * self.trainer.world_size, sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        right_B = paired_right(pair_scores(self.vlm, batch.pairs, choice_of(batch.pairs))).float()
        self.log(names.TEST_PAIRED, right_B.mean(), batch_size=len(batch.pairs), sync_dist=True)

    def count_parameters(self) -> dict[str, int]:
        weights = list(self.vlm.net.parameters())
        return {"total": sum(p.numel() for p in weights), "trained": sum(p.numel() for p in weights if p.requires_grad)}

    def export(self, folder: Path, *, datamodule: Any) -> Path:
        return export(self.vlm, folder)

    def configure_optimizers(self) -> dict[str, Any]:
        return adamw_with_schedule(
            module=self.vlm,
            total_steps=int(self.trainer.estimated_stepping_batches),
            **self.optimizer_args,
        )


def choice_of(pairs: list[Encoded]) -> tuple[str, ...]:
    """The scores that tell whether a pair is answered right; of pairs with one picture those under it."""
    return CHOICE if all(len(pair.prompt_l) for pair in pairs) else CHOICE[:2]


def paired_right(scores: dict[str, Tensor]) -> Tensor:
    """Whether under each image of a pair its own response is the likelier one (as in MMVP), bool [B]."""
    right_B = scores["ww"] > scores["wl"]
    return right_B & (scores["ll"] > scores["lw"]) if "ll" in scores else right_B
