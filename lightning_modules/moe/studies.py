"""What the experts of a model specialise in, looked at without training: one forward over held-out windows.

Shape legend: B sequences of a batch, N sequences in all, S tokens, L layers, E experts, K selected experts, D domains.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.corpus.datamodule import CorpusDataModule
from lightning_modules.common.bounds import Count, Whole
from lightning_modules.common.digests import digest, digest_of_weights
from lightning_modules.moe import figures as draw
from lightning_modules.moe import look
from lightning_modules.moe import specialization as measure
from lightning_modules.moe.held_out import DomainPerplexity, RoutingTally
from lightning_modules.moe.module import MoELM
from lightning_modules.moe.routing import RouterStats
from lightning_modules.moe.token_routing import Held, TokenRouting
from lightning_modules.runtime.study import Desk
from lightning_modules.training.inner import device


class RoutingAnalysis:
    """Domains against experts, entropy, balance at every scope, co-activation, and the null of shuffled domains.

    Args:
        module: the model in its LightningModule, which reads its routers and its loss.
        data: held-out windows are `data.eval_windows` a domain of its test split.
        shuffles: draws of the null. tokens: windows a domain whose routing is written token by token (`save_tokens`).
    """

    def __init__(self, *, module: MoELM, data: CorpusDataModule, shuffles: Count = 100, tokens: Whole = 0) -> None:
        self.module, self.data, self.shuffles, self.tokens = module.eval(), data, shuffles, tokens

    def prepare(self) -> None:
        self.data.prepare_data()

    def fingerprint(self) -> dict[str, str]:
        model: Any = self.module.model
        # What accelerate keeps on disk has no bytes here.
        weights = {name: w for name, w in model.state_dict().items() if not w.is_meta}
        base = digest([model.config.to_dict().get("model_type"), digest_of_weights(weights)])
        return {**self.data.fingerprint(), "base": base}

    @torch.inference_mode()
    def run(self, desk: Desk) -> dict[str, float]:
        model: Any = self.module.model
        if not hasattr(model, "hf_device_map"):
            self.module.to(device())
        domains = self.data.domains
        perplexity, routing = DomainPerplexity(len(domains)), RoutingTally()
        sums: list[Tensor] = []
        kept, seen = TokenRouting(windows=self.tokens), TokenRouting()
        for batch in self.data.test_dataloader():
            found = self.module.evaluate({name: value.to(model.device) for name, value in batch.items()})
            stats: RouterStats = found["stats"]
            perplexity.update(found["nll_B"].cpu(), found["tokens_B"].cpu(), batch["domain"])
            routing.update(stats, batch["domain"].to(stats.logits_LTE.device))
            sums.append(stats.prob_sums_LME.transpose(0, 1).cpu())
            kept.add(batch, stats, domains=len(domains))
            if desk.wants_page:
                seen.add(batch, stats, domains=len(domains))
        tally = routing.compute()
        for name, figure in draw.of_routing(tally=tally, domains=domains, top_k=self.module.tap.top_k).items():
            desk.figure(name, figure)
        torch.save({"domains": domains, **tally}, desk.folder / "figures" / "routing_test.pt")
        if self.tokens:
            save_tokens(desk, kept.held(), domains=domains, tokenizer=self.data.tokenizer)
        metrics = self._tables(desk, tally, torch.cat(sums), perplexity)

        def page() -> dict[str, Any]:
            return look.experts_page(
                held=seen.held(),
                tally=tally,
                domains=domains,
                tokenizer=self.data.tokenizer,
                name=Path(model.name_or_path).name or "the model",
                metrics=metrics,
                text=desk.text,
            )

        desk.page(look.KIND, look.TITLE, page)
        return metrics

    def _tables(
        self, desk: Desk, tally: dict[str, Tensor], prob_sums_NLE: Tensor, perplexity: DomainPerplexity
    ) -> dict[str, float]:
        domains, domain_N, counts_NLE = self.data.domains, tally["domain_N"], tally["counts_NLE"]
        order_N = torch.arange(len(domain_N))
        present_N = torch.unique(domain_N, return_inverse=True)[1]
        micro_N = measure.micro_batches(domain_N=domain_N, size=self.data.micro_batch)
        scopes = {"sequence": order_N, "micro": micro_N, "domain": present_N, "global": torch.zeros_like(order_N)}
        rows, metrics = [], {}
        for scope, group_N in scopes.items():
            in_N = group_N >= 0
            lbl, violation = measure.balance_over(
                counts_NLE=counts_NLE[in_N],
                prob_sums_NLE=prob_sums_NLE[in_N],
                tokens_N=tally["tokens_N"][in_N],
                group_N=group_N[in_N],
            )
            rows.append({"scope": scope, "groups": int(group_N.max()) + 1, "lbl": lbl, "maxvio": violation})
            metrics[f"test/lbl_{scope}"] = lbl
        desk.table("balance_by_scope", rows)
        by_domain = perplexity.compute()[1]
        share_DLE = measure.selection_share_DLE(counts_NLE=counts_NLE, domain_N=domain_N, domains=len(domains))
        top_D = measure.top_share_D(share_DLE=share_DLE)
        desk.table(
            "domains",
            [
                {
                    "domain": d,
                    "windows": int((domain_N == i).sum()),
                    "ppl": by_domain[i],
                    "top_share": float(top_D[i]),
                }
                for i, d in enumerate(domains)
            ],
        )
        return {**metrics, **measure.tested(tally, draws=self.shuffles), **perplexity.metrics("test", domains)}


def save_tokens(desk: Desk, held: Held, *, domains: list[str], tokenizer: Any) -> None:
    """`tables/routing_tokens.safetensors`: names tell the shapes; metadata the domains and each id's text, as JSON."""
    tensors = {
        "tokens_NS": held.tokens_NS,
        "experts_NSLK": held.experts_LNSK.permute(1, 2, 0, 3).contiguous(),
        "scores_NSLK": held.scores_LNSK.permute(1, 2, 0, 3).contiguous(),
        "domain_N": held.domain_N,
    }
    ids = held.tokens_NS.unique().tolist()
    words = dict(zip(map(str, ids), tokenizer.convert_ids_to_tokens(ids), strict=True))
    (desk.folder / "tables").mkdir(parents=True, exist_ok=True)
    about = {"domains": json.dumps(domains), "words": json.dumps(words, ensure_ascii=False)}
    save_file(tensors, desk.folder / "tables" / "routing_tokens.safetensors", metadata=about)
