"""What the page of a run says of its experts: what is planted is found, and where nothing is, nothing is said."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lightning_modules.look import page
from lightning_modules.moe import look
from lightning_modules.moe.look import SHOWN, Pieces, experts_page
from lightning_modules.moe.module import MoELM
from lightning_modules.moe.preferences import as_many, companions, domain_preference, word_preference
from lightning_modules.moe.routing import RouterStats
from lightning_modules.moe.specialization import count_pairs
from lightning_modules.moe.token_routing import TokenRouting
from tests.moe.toy import tiny_model

LAYERS, SEQUENCES, LENGTH, EXPERTS, TOP_K, WORDS = 2, 60, 32, 8, 2, 40
DOMAINS = ["code", "maths", "news"]
EVIL = "<script>document.title = 'broken'</script>"


class Tokenizer:
    """Token i is `wi`, but for one that is HTML, one from right to left and one that is two bytes of a character."""

    special = {0: EVIL, 1: " سلام", 2: "\ufffd"}

    def decode(self, tokens, **_):
        return "".join(self.special.get(t, f" w{t}") for t in tokens)

    def convert_ids_to_tokens(self, token):
        return "âĤ" if token == 2 else f"Ġw{token}"


def routed(*, seed=0, taste=None):
    """Held-out text whose experts are drawn at random, scores raised by `taste(logits_LNSE, tokens_NS, domain_N)`."""
    generator = torch.Generator().manual_seed(seed)
    tokens_NS = torch.randint(WORDS, (SEQUENCES, LENGTH), generator=generator)
    domain_N = torch.arange(SEQUENCES) % len(DOMAINS)
    logits_LNSE = torch.rand(LAYERS, SEQUENCES, LENGTH, EXPERTS, generator=generator)
    if taste:
        taste(logits_LNSE, tokens_NS, domain_N)
    kept, counts = TokenRouting(), []
    for n in range(SEQUENCES):
        logits_LTE = logits_LNSE[:, n]
        stats = RouterStats(logits_LTE, logits_LTE.topk(TOP_K).indices, torch.ones(LENGTH, dtype=torch.bool), 1)
        counts.append(stats.frequency.counts_LME[:, 0])
        batch = {"input_ids": tokens_NS[n : n + 1], "domain": domain_N[n : n + 1]}
        kept.add(batch, stats, domains=len(DOMAINS))
    return kept.held(), torch.stack(counts), domain_N


def drawn(held, counts_NLE, domain_N, **changes):
    common = dict(domains=DOMAINS, tokenizer=Tokenizer(), name="one", metrics={"test/ppl": 61.0})
    tally = {"counts_NLE": counts_NLE, "domain_N": domain_N}
    return experts_page(held=held, tally=tally, **{**common, **changes})


def prefers_maths(logits_LNSE, tokens_NS, domain_N):
    logits_LNSE[1, domain_N == 1, :, 5] += 0.5


def test_the_expert_that_must_specialise_is_the_first_row():
    found = drawn(*routed(taste=prefers_maths))
    first = found["standing_out"][0]
    assert (first["layer"], first["expert"], [d["domain"] for d in first["domains"]]) == (1, 5, ["maths"])
    assert first["domains"][0]["share"] > first["domains"][0]["high"]
    assert found["verdict"].startswith(f"{len(found['standing_out'])} of 16 experts")
    assert found["share"][1][5][1] == pytest.approx(first["domains"][0]["share"])
    parts = [max(shares) / sum(shares) for layer in found["share"] for shares in layer]
    assert f"for {sum(p > 0.5 for p in parts)} of them one domain" in found["verdict"]
    assert parts[8 + 5] > 0.5, "what is planted"


def test_where_nothing_is_preferred_the_page_says_nothing():
    found = drawn(*routed())
    assert found["standing_out"] == []
    assert found["verdict"].startswith("No expert takes any domain more often")
    assert [e["words"] for layer in found["portraits"] for e in layer] == [[]] * LAYERS * EXPERTS


def test_of_one_domain_nothing_is_preferred():
    """Every shuffle of one label gives the same shares, and rounding is not beyond them."""
    for seed in range(8):
        _, counts_NLE, domain_N = routed(seed=seed)
        assert not domain_preference(counts_NLE=counts_NLE, domain_N=0 * domain_N, domains=1).beyond_DLE.any()


def test_a_domain_without_text_is_not_on_the_page():
    held, counts_NLE, domain_N = routed(taste=prefers_maths)
    given = drawn(held, counts_NLE, domain_N)
    # Of four domains, of which the second has no text.
    sparse = domain_N + (domain_N > 0)
    found = drawn(held._replace(domain_N=sparse), counts_NLE, sparse, domains=[DOMAINS[0], "nothing", *DOMAINS[1:]])
    assert found == given


def test_the_first_choice_is_the_expert_that_scored_highest():
    """Whatever the order in which a router names the experts of a token."""
    held, _, domain_N = routed()
    kept = TokenRouting()
    logits_LTE = torch.rand(LAYERS, LENGTH, EXPERTS, generator=torch.Generator().manual_seed(0))
    best = logits_LTE.softmax(-1).topk(TOP_K)
    stats = RouterStats(logits_LTE, best.indices.flip(-1), torch.ones(LENGTH, dtype=torch.bool), 1)
    kept.add({"input_ids": held.tokens_NS[:1], "domain": domain_N[:1]}, stats, domains=len(DOMAINS))
    torch.testing.assert_close(kept.held().scores_LNSK[:, 0], best.values)
    assert torch.equal(kept.held().experts_LNSK[:, 0].long(), best.indices)


@pytest.mark.slow
def test_the_lines_hold_for_all_cells_together():
    """Of a hundred pages in which nothing is preferred about five name anything at all; thirteen are a chance of 0.1%."""
    generator = torch.Generator().manual_seed(1)
    domain_N = torch.arange(40) % 4
    named = worded = 0
    for _ in range(100):
        counts_NLE = torch.multinomial(torch.ones(40, 8), 64, True, generator=generator)
        counts_NLE = torch.nn.functional.one_hot(counts_NLE, 8).sum(1)[:, None]
        named += bool(
            domain_preference(counts_NLE=counts_NLE, domain_N=domain_N, domains=4, draws=100).beyond_DLE.any()
        )
        tokens = torch.randint(20, (800,), generator=generator)
        indices_TK = torch.rand(800, 8, generator=generator).topk(2).indices
        rows = word_preference(token_T=tokens, indices_TK=indices_TK, domain_T=tokens * 0, experts=8)
        worded += any(rows)
    assert 1 <= named <= 12
    assert worded <= 12


def test_words_are_judged_within_their_domain():
    """An expert that takes all of one domain alike prefers none of the words that only this domain has."""
    token_T = torch.cat([torch.arange(400) % 10, 10 + torch.arange(400) % 10])
    domain_T = torch.arange(800) // 400
    indices_TK = domain_T[:, None] * 3 + torch.zeros(800, 1, dtype=torch.int64)
    shared = dict(token_T=token_T, experts=4)
    assert not any(word_preference(indices_TK=indices_TK, domain_T=domain_T, **shared))
    assert any(word_preference(indices_TK=indices_TK, domain_T=domain_T * 0, **shared))
    own = torch.where(token_T[:, None] == 7, 2, indices_TK)
    ((word,),) = [
        rows for rows in word_preference(indices_TK=own, domain_T=domain_T, **shared) if rows[:1] and rows[0].token == 7
    ]
    assert (word.taken, round(word.expected)) == (40, 4)
    assert word.chance < 1e-20


def test_companions_are_those_chosen_together():
    generator = torch.Generator().manual_seed(0)
    scores_TE = torch.rand(2000, 6, generator=generator)
    alone = companions(pairs_EE=count_pairs(indices_TK=scores_TE.topk(2).indices, experts=6))
    assert alone == [[]] * 6
    scores_TE[:, 4] += (scores_TE[:, 1] > 0.7) * 0.5
    found = companions(pairs_EE=count_pairs(indices_TK=scores_TE.topk(2).indices, experts=6))
    assert [m.expert for m in found[1]] == [4]
    assert found[1][0].together > found[1][0].expected


def test_half_a_character_is_shown_as_its_bytes():
    assert Pieces(Tokenizer()).of([2, 3]) == ["⟨E2 82⟩", " w3"]


def test_no_word_is_left_where_text_is_off():
    found = json.dumps(drawn(*routed(taste=prefers_maths), text=False))
    assert "w3" not in found
    assert '"standing_out": [{"layer": 1' in found


def test_a_text_of_ones_own_is_shown_where_text_of_the_data_is_off():
    given = routed(taste=prefers_maths)
    own, _, _ = routed(seed=9)
    found = drawn(*given, text=False, own={"mine.txt": own})
    assert {text["title"] for text in found["texts"]} == {"mine.txt"}
    assert not any(e["words"] or e["contexts"] for layer in found["portraits"] for e in layer)


def test_text_is_never_html_and_the_data_come_back(tmp_path):
    held, counts_NLE, domain_N = routed(taste=prefers_maths)
    held.tokens_NS[0, 0] = 0
    data = {"runs": [drawn(held, counts_NLE, domain_N)]}
    path = page.write(tmp_path / "look.html", kind="experts", title=f"{EVIL} & more", data=data)
    text = path.read_text()
    assert "<script>document" not in text
    assert text.count("<script") == 3
    assert page.read(path) == {"kind": "experts", "title": f"{EVIL} & more", **data}
    assert EVIL in page.read(path)["runs"][0]["texts"][0]["pieces"]
    again = page.write(tmp_path / "again.html", kind="experts", title=f"{EVIL} & more", data=data)
    assert again.read_bytes() == path.read_bytes()


class Rare(Tokenizer):
    """Byte-level tokens that are half a character, and words from right to left, all over a large vocabulary."""

    def decode(self, tokens, **_):
        return "".join("\ufffd" if t % 3 == 0 else " سلام" if t % 3 == 1 else f" w{t}" for t in tokens)

    def convert_ids_to_tokens(self, token):
        return "âĤ" if token % 3 == 0 else f"Ġw{token}"


def large(*, layers=60, experts=256, top_k=8, length=32, sequences=12):
    """A page of 60 layers of 256 experts and a vocabulary of 150,000, in which one expert takes two words."""
    rng = np.random.default_rng(0)
    kept = TokenRouting(selections=layers * top_k * length * 6)
    counts = []
    for n in range(sequences):
        logits_LTE = torch.from_numpy(rng.random((layers, length, experts), dtype=np.float32))
        # Half of the words are three that come again and again; an expert takes two of them.
        often = rng.random((1, length)) < 0.5
        words = np.where(often, rng.integers(3, 6, (1, length)), rng.integers(6, 150_000, (1, length)))
        ids = torch.from_numpy(words)
        logits_LTE[10, :, 200] += torch.isin(ids[0], torch.tensor([3, 4]))
        stats = RouterStats(logits_LTE, logits_LTE.topk(top_k).indices, torch.ones(length, dtype=torch.bool), 1)
        counts.append(stats.frequency.counts_LME[:, 0])
        kept.add({"input_ids": ids, "domain": torch.tensor([n % 3])}, stats, domains=3)
    return drawn(kept.held(), torch.stack(counts), torch.arange(sequences) % 3, tokenizer=Rare())


@pytest.mark.slow
def test_a_large_model_is_sampled_and_the_page_says_so(tmp_path):
    """Whole sequences of every domain until the room is taken; shares are of all."""
    found = large()
    path = page.write(tmp_path / "look.html", kind="experts", title="large", data={"runs": [found]})
    assert path.stat().st_size < 10_000_000
    assert found["sampled"] == [6, 12]
    assert (found["layers"], found["experts"]) == (60, 256)
    shown = [piece for text in found["texts"] for piece in text["pieces"]]
    assert {"⟨E2 82⟩", " سلام"} < set(shown)
    assert {w["piece"] for w in found["portraits"][10][200]["words"]} == {"⟨E2 82⟩", " سلام"}
    assert sum(len(text["pieces"]) * 60 * 8 for text in found["texts"]) <= SHOWN
    assert len(found["texts"]) == 6


def test_of_many_experts_with_words_and_of_long_windows_less_is_kept(monkeypatch):
    """Sixteen experts of which every one has words, with room for three each; windows are cut to their first tokens."""
    tastes = torch.rand(WORDS, EXPERTS, generator=torch.Generator().manual_seed(3))

    def taste(logits_LNSE, tokens_NS, domain_N):
        logits_LNSE += 3 * tastes[tokens_NS]

    given = routed(taste=taste)
    whole = drawn(*given)
    rows = [e for layer in whole["portraits"] for e in layer]
    assert max(len(e["words"]) for e in rows) > 3
    assert whole["most_words"] is None
    monkeypatch.setattr(look, "OF_PAGE", 3 * LAYERS * EXPERTS)
    monkeypatch.setattr(look, "LOADS", 5 * LAYERS * EXPERTS)
    monkeypatch.setattr(look, "SHOWN", 3 * 10 * LAYERS * TOP_K)
    loads = [(step, torch.ones(LAYERS, EXPERTS) / EXPERTS) for step in range(100)]
    found = drawn(*given, loads=loads)
    kept = [e for layer in found["portraits"] for e in layer]
    assert [e["words"] for e in kept] == [e["words"][:3] for e in rows]
    assert {len(e["contexts"]) for e in kept} == {1}
    assert found["most_words"] == 3
    assert len(found["load"]["steps"]) == 5
    assert [(t["tokens"], len(t["pieces"])) for t in found["texts"]] == [(LENGTH, 10)] * len(DOMAINS)
    assert all(len(layer) == 10 for text in found["texts"] for layer in (*text["experts"], *text["scores"]))


def test_the_chance_of_as_many_is_the_binomial_tail():
    generator = np.random.default_rng(0)
    n = generator.integers(0, 4000, 2000)
    k, p = (generator.random(2000) * (n + 1)).astype(int), generator.random(2000) ** 3
    p[:20], p[20:40] = 0, 1
    assert (as_many(k, n, p) == binom.sf(k - 1, n, p)).all()


def test_a_text_of_ones_own_is_read_as_a_corpus_is(tmp_path):
    module = MoELM(model=tiny_model(), micro_batch=1).eval()

    def letters(text, **_):
        return SimpleNamespace(input_ids=torch.tensor([[ord(letter) - 32 for letter in text.replace("\n", "?")]]))

    data, path = SimpleNamespace(tokenizer=letters, seq_len=4), tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbfA\r\nBC")
    with torch.inference_mode():
        assert look._own_text(path, module, data).tokens_NS.tolist() == [[33, 31, 34, 35]]
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match="own.txt is not UTF-8: byte 0xe9 at offset 3 .* iconv -f latin1 -t utf-8"):
        look._own_text(path, module, data)
