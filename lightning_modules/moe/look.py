"""What the page of a MoE run shows: who takes which tokens of held-out text, as tables that the page is drawn from.

Shape legend: B sequences of a forward, S tokens of a sequence, T = B x S, L layers, K selected experts, E experts, N
sequences in all, D domains.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.files import text as whole
from lightning_modules.common.attention_ways import AttentionError
from lightning_modules.look.finished import Finished
from lightning_modules.moe.preferences import (
    Companion,
    DomainPreference,
    Word,
    companions,
    domain_preference,
    word_preference,
)
from lightning_modules.moe.specialization import count_pairs, with_text
from lightning_modules.moe.token_routing import Held, TokenRouting

# Of the page: selections of the windows shown, tokens on each side of a word, points of the load over training.
SHOWN, CONTEXT, STEPS = 400_000, 6, 60
# Of an expert: words and places; and of a page, which thousands of experts share. Values of the load of all.
WORDS, PLACES, OF_PAGE, LOADS = 10, 4, 60_000, 240_000
# Windows of a user's own text that are read, and that are shown.
OWN, OWN_SHOWN = 64, 12
KIND, TITLE = "experts", "What each expert does"


def experts_page(
    *,
    held: Held,
    tally: Mapping[str, Tensor],
    domains: Sequence[str],
    tokenizer: Any,
    name: str,
    metrics: Mapping[str, float],
    loads: Sequence[tuple[int, Tensor]] = (),
    text: bool = True,
    windows: int = 3,
    own: "dict[str, Held] | None" = None,
) -> dict[str, Any]:
    """All that the page shows of one run, as plain lists and numbers.

    tally: of all held-out sequences, as `RoutingTally` counts them; `held` is a sample with its tokens. metrics: the run's.
    loads: (step, load [L, E]) over training. text=False leaves out every word of the held-out text and keeps what is
    counted. own: name -> a text of the user's, shown before the domains' windows.
    """
    pieces, counts_NLE = Pieces(tokenizer), tally["counts_NLE"]
    here, domain_N, domains = with_text(domain_N=tally["domain_N"], domains=domains)
    held = held._replace(domain_N=torch.searchsorted(here, held.domain_N))
    layers, experts = counts_NLE.shape[1:]
    top_k = held.experts_LNSK.shape[-1]
    preference = domain_preference(counts_NLE=counts_NLE, domain_N=domain_N, domains=len(domains))
    flat_LTK = held.experts_LNSK.flatten(1, 2).long()
    token_T, domain_T = held.tokens_NS.flatten(), held.domain_N.repeat_interleave(held.tokens_NS.shape[1])
    tests = layers * experts * len(token_T.unique())
    most = max(1, min(WORDS, OF_PAGE // (layers * experts)))
    places = max(1, PLACES * most // WORDS)
    portraits = []
    for layer, indices_TK in enumerate(flat_LTK):
        shared = dict(token_T=token_T, indices_TK=indices_TK, domain_T=domain_T, experts=experts)
        words = word_preference(**shared, most=most, tests=tests) if text else [[] for _ in range(experts)]
        mates = companions(pairs_EE=count_pairs(indices_TK=indices_TK, experts=experts))
        portraits.append(
            [
                {
                    "words": [{**_short(w), "piece": pieces(w.token)} for w in words[e]],
                    "contexts": contexts(
                        held, layer=layer, expert=e, words=[w.token for w in words[e]], pieces=pieces, most=places
                    ),
                    "companions": [_short(m) for m in mates[e]],
                }
                for e in range(experts)
            ]
        )
    steps = list(loads)[:: max(1, -(-len(loads) // max(2, min(STEPS, LOADS // (layers * experts)))))]
    found = standing_out(preference, domains, portraits)
    return {
        "name": name,
        "text": text,
        "standing_out": found,
        "verdict": verdict(found, layers * experts, own=mostly_one(preference)),
        "facts": facts(metrics),
        "layers": layers,
        "experts": experts,
        "top_k": top_k,
        "domains": list(domains),
        "share": _rounded(preference.share_DLE.permute(1, 2, 0)),
        "mean": _rounded(preference.mean_DLE.permute(1, 2, 0)),
        "spread": _rounded(preference.spread_DLE.permute(1, 2, 0)),
        "beyond": preference.beyond_DLE.permute(1, 2, 0).tolist(),
        "portraits": portraits,
        "load": {"steps": [s for s, _ in steps], "values": [_rounded(load * experts, 3) for _, load in steps]},
        "texts": shown(held, domains, pieces, windows=windows if text else 0, own=own or {}),
        "sampled": [len(held.domain_N), len(domain_N)],
        "most_words": most if most < WORDS else None,
    }


def standing_out(
    preference: DomainPreference, domains: Sequence[str], portraits: list[list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Experts that take a domain more often than chance gives anywhere, largest surplus first, with their surest words."""
    surplus_DLE = preference.share_DLE - preference.mean_DLE
    half = 1.96 * preference.spread_DLE
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for d, layer, e in sorted(preference.beyond_DLE.nonzero().tolist(), key=lambda c: -float(surplus_DLE[tuple(c)])):
        words = [w["piece"] for w in portraits[layer][e]["words"][:4]]
        row = rows.setdefault((layer, e), {"layer": layer, "expert": e, "domains": [], "words": words})
        mean, off = float(preference.mean_DLE[d, layer, e]), float(half[d, layer, e])
        share = {"share": float(preference.share_DLE[d, layer, e]), "low": max(0.0, mean - off), "high": mean + off}
        row["domains"].append({"domain": domains[d], **{k: round(v, 5) for k, v in share.items()}})
    return list(rows.values())


def mostly_one(preference: DomainPreference) -> int:
    """Experts for which a domain that stands out is over half of all they take, domains weighed alike."""
    part_DLE = preference.share_DLE / preference.share_DLE.sum(0).clamp(min=1e-12)
    return int(((part_DLE > 0.5) & preference.beyond_DLE).any(0).sum())


def verdict(found: list[dict[str, Any]], experts: int, *, own: int) -> str:
    """The page's first sentences. own: experts that one domain is most of (`mostly_one`)."""
    if not found:
        return (
            "No expert takes any domain more often than chance gives somewhere in a run whose experts prefer nothing."
        )
    return (
        f"{len(found)} of {experts} experts take a domain more often than chance gives anywhere in the run; "
        f"for {own} of them one domain is over half of all they take."
    )


def contexts(
    held: Held, *, layer: int, expert: int, words: Iterable[int], pieces: "Pieces", most: int = 4
) -> list[Any]:
    """Up to `most` places where the expert took one of `words` as its first choice, surest first, each sequence once."""
    wanted = torch.tensor(list(words), dtype=torch.int64)
    if not len(wanted):
        return []
    first_NS = (held.experts_LNSK[layer, ..., 0] == expert) & torch.isin(held.tokens_NS, wanted)
    score_NS = torch.where(first_NS, held.scores_LNSK[layer, ..., 0].float(), -1.0)
    best_N, place_N = score_NS.max(1)
    found = []
    for n in best_N.argsort(descending=True, stable=True)[:most].tolist():
        if best_N[n] < 0:
            break
        row, place = held.tokens_NS[n].tolist(), int(place_N[n])
        before, after = row[max(0, place - CONTEXT) : place], row[place + 1 : place + 1 + CONTEXT]
        found.append(
            {
                "before": pieces.text(before),
                "word": pieces(row[place]),
                "after": pieces.text(after),
                "domain": int(held.domain_N[n]),
                "score": round(float(best_N[n]), 3),
            }
        )
    return found


def shown(
    held: Held, domains: Sequence[str], pieces: "Pieces", *, windows: int, own: "dict[str, Held]"
) -> list[dict[str, Any]]:
    """Windows with each token's experts and scores (in thousandths): up to OWN_SHOWN of the user's, then `windows` a domain.

    SHOWN selections in all: there are fewer windows a domain, and all are cut to their first tokens, where more would be.
    """
    layers, _, length, top_k = held.experts_LNSK.shape
    rows = [(name, given, n) for name, given in own.items() for n in range(len(given.domain_N))][:OWN_SHOWN]
    room = SHOWN // (layers * top_k)
    if windows:
        each = max(1, min(windows, room // (length * len(domains))))
        of_domain = [(held.domain_N == d).nonzero()[:each, 0].tolist() for d in range(len(domains))]
        rows += [(domains[d], held, n) for d, places in enumerate(of_domain) for n in places]
    cut = max(1, room // max(1, len(rows)))
    return [
        {
            "title": title,
            "tokens": given.tokens_NS.shape[1],
            "pieces": pieces.of(given.tokens_NS[n, :cut].tolist()),
            "experts": given.experts_LNSK[:, n, :cut].tolist(),
            "scores": (given.scores_LNSK[:, n, :cut].float() * 1000).round().long().tolist(),
        }
        for title, given, n in rows
    ]


class Pieces:
    """What tokens look like. A token that is a part of a character is shown as its bytes: `⟨E2 82⟩`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._bytes = {character: byte for byte, character in bytes_to_unicode().items()}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            piece = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            raw = self._tokenizer.convert_ids_to_tokens(token) or ""
            if "\ufffd" in piece and all(character in self._bytes for character in raw):
                piece = f"⟨{' '.join(f'{self._bytes[c]:02X}' for c in raw)}⟩"
            self._known[token] = piece if piece else raw
        return self._known[token]

    def of(self, tokens: Sequence[int]) -> list[str]:
        return [self(token) for token in tokens]

    def text(self, tokens: Sequence[int]) -> str:
        """Several tokens as one text; half a character at an end is left out."""
        return self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False).strip("\ufffd")


def _short(row: Word | Companion) -> dict[str, Any]:
    """Its fields by name; digits that nobody reads would be most of a large page."""
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in row._asdict().items()}


def _rounded(values: Tensor, digits: int = 5) -> list[Any]:
    return [_rounded(v, digits) for v in values] if values.dim() > 1 else [round(v, digits) for v in values.tolist()]


def page(run: Finished) -> dict[str, Any]:
    """The page's part of a finished run: one forward over its held-out text, and over the user's own.

    Of a training it is its export that reads, of a study the model that it looked at.
    """
    from hydra.utils import instantiate

    from lightning_modules.moe.held_out import RoutingTally
    from lightning_modules.moe.module import MoELM
    from lightning_modules.moe.pretrained import pretrained_moe

    if run.cfg.get("study"):
        module = instantiate(run.cfg.study.module).eval()
    else:
        try:
            model = pretrained_moe(pretrained=str(run.export()))
        except AttentionError:
            # The run's own way may be one of another machine; this one is there for every family.
            model = pretrained_moe(pretrained=str(run.export()), attention="eager")
        module = MoELM(model=model, micro_batch=run.cfg.data.micro_batch).eval()
    data = instantiate(run.cfg.data)
    data.prepare_data()
    routing, tally = TokenRouting(), RoutingTally()
    with torch.inference_mode():
        for batch in data.test_dataloader():
            stats = module.evaluate(batch)["stats"]
            tally.update(stats, batch["domain"])
            routing.add(batch, stats, domains=len(data.domains))
        own = {run.own.name: _own_text(run.own, module, data)} if run.own else {}
    found = experts_page(
        held=routing.held(),
        tally=tally.compute(),
        domains=data.domains,
        tokenizer=data.tokenizer,
        name=run.name,
        metrics=run.metrics,
        text=run.text,
        own=own,
    )
    earlier = run.earlier()
    return found | {"load": earlier["runs"][0]["load"]} if earlier else found


def _own_text(path: Path, module: Any, data: Any) -> Held:
    """The user's text in windows of the run's length; what is left over at its end is left out unless it is all."""
    ids = data.tokenizer(whole(path), return_tensors="pt", add_special_tokens=False).input_ids[0]
    if not len(ids):
        raise ValueError(f"look.text={path} holds no text.")
    length = min(data.seq_len, len(ids))
    windows = ids[: len(ids) // length * length].view(-1, length)[:OWN]
    routing = TokenRouting()
    for row in windows.split(16):
        batch = {"input_ids": row, "targets": row, "attention_mask": torch.ones_like(row)}
        batch["domain"] = torch.zeros(len(row), dtype=torch.int64)
        routing.add(batch, module.evaluate(batch)["stats"], domains=1)
    return routing.held()


def facts(metrics: Mapping[str, float]) -> dict[str, str]:
    """What stands beside a run's name."""
    wanted = {"test/ppl": "perplexity", "test/mutual_information": "I(expert; domain)"}
    found = {label: f"{metrics[name]:.3g}" for name, label in wanted.items() if name in metrics}
    if (line := metrics.get("test/mutual_information_shuffled_q95")) is not None:
        found["chance, 95%"] = f"{line:.2g}"
    return found
