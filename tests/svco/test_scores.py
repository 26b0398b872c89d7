"""Scores by shared prefixes against full separate forwards; what must not matter; LoRA; real families."""

import pytest
import torch

from lightning_modules.svco import scores as scores_file
from lightning_modules.svco.losses import SCORES, Objective
from lightning_modules.svco.scores import pack, pair_scores, response_tokens, separate, shared
from tests.svco.toy import encode, tiny_vlm, toy_pairs


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm(double=True)


@pytest.fixture(scope="module")
def pairs(vlm):
    return encode(vlm, toy_pairs(), double=True)


def by_separate(vlm, pairs, needs=SCORES):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores_file, "scores_of", separate)
        return pair_scores(vlm, pairs, needs)


@torch.no_grad()
def test_shared_scores_equal_full_forwards(vlm, pairs):
    ours, theirs = pair_scores(vlm, pairs, SCORES), by_separate(vlm, pairs)
    for name in SCORES:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-9), name
    # Large enough a spread that equality says something.
    assert float((ours["ww"] - ours["lw"]).abs().max()) > 1e-3


def test_losses_and_gradients_equal_those_of_full_forwards(pairs):
    def gradients(score):
        vlm = tiny_vlm(double=True)
        found = score(vlm, pairs, SCORES)
        base = {name: value.detach() - 1.5 for name, value in found.items()}
        loss = Objective(betas=dict.fromkeys(("attend", "reject", "attend_mirror", "reject_mirror"), 0.1))
        value = loss(scores=found, tokens=response_tokens(pairs, like=found["ww"]), reference=base)
        value.backward()
        return value.detach(), {n: p.grad for n, p in vlm.named_parameters() if p.grad is not None}

    (one, ours), (other, theirs) = gradients(pair_scores), gradients(by_separate)
    assert float((one - other).abs()) < 1e-10
    assert ours.keys() == theirs.keys()
    assert not any("vision_tower" in name for name in ours)
    for name, gradient in theirs.items():
        # transformers' RMSNorm computes in float32 whatever the weights are.
        assert float((ours[name] - gradient).norm() / gradient.norm()) < 1e-5, name


@torch.no_grad()
@pytest.mark.parametrize("needs", [("ww",), ("ww", "nw"), ("ll", "wl"), ("nw", "nl"), ("lw",)])
def test_fewer_scores_are_the_same_scores(vlm, pairs, needs):
    every, some = pair_scores(vlm, pairs, SCORES), pair_scores(vlm, pairs, needs)
    assert set(some) == set(needs)
    assert all(torch.allclose(some[n], every[n], atol=1e-9) for n in needs)


@torch.no_grad()
def test_padding_and_batch_order_change_nothing(vlm, pairs):
    every = pair_scores(vlm, pairs, SCORES)
    alone = [pair_scores(vlm, [pair], SCORES) for pair in pairs]
    turned = pair_scores(vlm, pairs[::-1], SCORES)
    for name in SCORES:
        assert torch.allclose(every[name], torch.cat([a[name] for a in alone]), atol=1e-9)
        assert torch.allclose(every[name], turned[name].flip(0), atol=1e-9)


@torch.no_grad()
def test_only_response_tokens_count(vlm, pairs):
    """A response's score is the sum over its own tokens: shorter by one token, it loses that token's share alone."""
    pair = pairs[0]
    ids = torch.cat([pair.prompt_n, pair.response_w])[None]
    logp = vlm.core(input_ids=ids).logits[0].log_softmax(-1)
    own = [float(logp[t - 1, ids[0, t]]) for t in range(len(pair.prompt_n), ids.shape[1])]
    cut = pair._replace(response_w=pair.response_w[:-1])
    assert float(pair_scores(vlm, [pair], ("nw",))["nw"]) == pytest.approx(sum(own), abs=1e-9)
    assert float(pair_scores(vlm, [cut], ("nw",))["nw"]) == pytest.approx(sum(own[:-1]), abs=1e-9)


@torch.no_grad()
def test_a_response_does_not_see_the_other_one(vlm, pairs):
    first = pair_scores(vlm, [pairs[0]], SCORES)
    other = pairs[0]._replace(response_w=pairs[1].response_w)
    second = pair_scores(vlm, [other], SCORES)
    assert torch.allclose(first["wl"], second["wl"], atol=1e-9)
    assert not torch.allclose(first["ww"], second["ww"], atol=1e-3)


@torch.no_grad()
def test_an_image_shown_twice_gives_equal_scores(vlm, pairs):
    twice = [p._replace(inputs_l=p.inputs_w) for p in pairs]
    found = pair_scores(vlm, twice, SCORES)
    assert torch.equal(found["ww"], found["lw"])
    assert torch.equal(found["wl"], found["ll"])


def test_one_image_is_one_pass_of_the_vision_tower(vlm, pairs):
    seen = []
    handle = vlm.core.model.vision_tower.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[0]))
    with torch.no_grad():
        pair_scores(vlm, pairs, SCORES)
    handle.remove()
    assert seen == [2 * len(pairs)]


def test_logits_are_made_for_response_tokens_only(vlm, pairs):
    seen = []
    handle = vlm.core.lm_head.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[0]))
    with torch.no_grad():
        pair_scores(vlm, pairs, SCORES)
    handle.remove()
    assert sum(seen) == 3 * sum(len(p.response_w) + len(p.response_l) for p in pairs)


def test_packing_by_hand():
    from lightning_modules.svco.scores import Row

    rows = [
        Row(torch.tensor([5, 6]), {}, [torch.tensor([7, 8]), torch.tensor([9])]),
        Row(torch.tensor([5]), {}, [torch.tensor([4])]),
    ]
    packed = pack(rows, pad=0)
    assert packed.ids_RT.tolist() == [[5, 6, 7, 8, 9], [5, 4, 0, 0, 0]]
    assert packed.positions_RT[0].tolist() == [0, 1, 2, 3, 2]
    assert packed.source_N.tolist() == [1, 2, 1, 5]
    assert packed.target_N.tolist() == [7, 8, 9, 4]
    assert packed.score_N.tolist() == [0, 0, 1, 2]
    assert (~packed.blocked_RTT[0, 4]).tolist() == [True, True, False, False, True]


@torch.no_grad()
def test_lora_off_is_the_base_model_and_is_its_own_reference():
    base, adapted = tiny_vlm(), tiny_vlm(lora_rank=4)
    pairs = encode(base, toy_pairs(4))
    for name, weight in adapted.net.named_parameters():
        if "lora_B" in name:
            weight.copy_(torch.randn_like(weight))
    expected = pair_scores(base, pairs, SCORES)
    with adapted.net.disable_adapter():
        off = pair_scores(adapted, pairs, SCORES)
    on = pair_scores(adapted, pairs, SCORES)
    for name in SCORES:
        assert torch.equal(off[name], expected[name])
        assert not torch.allclose(on[name], expected[name], atol=1e-2)
    trained = [n for n, p in adapted.net.named_parameters() if p.requires_grad]
    assert trained and all("lora" in n and "language_model" in n for n in trained)


def test_a_long_response_is_cut_and_counted_and_an_empty_one_refused():
    vlm = tiny_vlm(max_response=4)
    pairs = toy_pairs(6)
    encoded = encode(vlm, pairs)
    words = [len(text.split()) + 1 for p in pairs for text in (p.chosen, p.rejected)]
    assert sum(p.cut for p in encoded) == sum(w > 4 for w in words) > 0
    assert all(len(p.response_w) <= 4 for p in encoded)
    with pytest.raises(ValueError, match="has no token"):
        vlm.reader.response("")


@torch.no_grad()
def test_shared_float32_is_within_1e_5_of_the_score():
    vlm = tiny_vlm()
    pairs = encode(vlm, toy_pairs())
    rows = [scores_file.Row(p.prompt_w, p.inputs_w, [p.response_w, p.response_l]) for p in pairs]
    assert torch.allclose(shared(vlm, rows), separate(vlm, rows), rtol=1e-5)
