"""Several documents in one window, kept apart, are what each of them is alone: losses and routing.

Shape legend: B windows, S tokens, T = B x S, L layers, K selected experts.
"""

import numpy as np
import pytest
import torch

from datamodules.corpus import CorpusDataModule, SyntheticSource
from lightning_modules.moe.families import FAMILIES
from lightning_modules.moe.module import MoELM
from tests.datamodules.test_corpus import SMALL
from tests.moe.toy import tiny_model

END = 5


def batch_of(lengths, draw):
    """One window of documents of so many tokens with their ends, and the target of the last."""
    parts = [torch.cat([torch.randint(6, 64, (n - 1,), generator=draw), torch.tensor([END])]) for n in lengths]
    text_S = torch.cat(parts)
    ends_1S = (text_S[:-1] == END)[None]
    batch = {"input_ids": text_S[None, :-1], "targets": text_S[None, 1:], "target_mask": ~ends_1S}
    return {**batch, "document": ends_1S.cumsum(1) - ends_1S.long()}, parts


@pytest.mark.parametrize("attention", ["causal_sdpa", "sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_is_its_documents_alone(family, attention):
    module = MoELM(model=tiny_model(family=family, attention=attention), micro_batch=1).double().eval()
    batch, parts = batch_of((5, 9, 2, 7), torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = module.evaluate(batch)
        alone = [module.evaluate({"input_ids": p[None, :-1], "targets": p[None, 1:]}) for p in parts if len(p) > 1]
    torch.testing.assert_close(whole["nll_B"].sum(), sum(a["nll_B"].sum() for a in alone), rtol=1e-8, atol=0)
    assert int(whole["tokens_B"]) == sum(int(a["tokens_B"]) for a in alone)
    inputs_T = batch["target_mask"][0]
    # The window's routing at the tokens that are read alone too: all but the ends of the first documents.
    indices_LTK = whole["stats"].indices_LTK[:, inputs_T]
    assert torch.equal(
        indices_LTK.sort(-1).values, torch.cat([a["stats"].indices_LTK for a in alone], 1).sort(-1).values
    )
    joined = {name: value for name, value in batch.items() if name != "document"}
    with torch.no_grad():
        assert not torch.allclose(module.evaluate(joined)["nll_B"], whole["nll_B"], rtol=1e-6), "else nothing is tested"


def test_a_corpus_tells_documents_apart_when_asked(tmp_path):
    settings = {"source": SyntheticSource(documents=60), "cache_dir": str(tmp_path), **SMALL}
    joined, apart = CorpusDataModule(**settings), CorpusDataModule(**settings, documents="apart")
    apart.prepare_data()
    assert "document" not in joined.train_batch(0)
    batch = apart.train_batch(0)
    assert torch.equal(batch["input_ids"], joined.train_batch(0)["input_ids"])
    many = apart.training.__getitems__(list(range(60)))
    end = apart.tokenizer.eos_token_id
    for ids, document, counts in zip(many["input_ids"], many["document"], many["target_mask"], strict=True):
        assert torch.equal(counts, ids != end)
        assert document[0] == 0 and int(document[-1]) == int((ids[:-1] == end).sum())
    assert int(many["document"].max()) > 0
    assert apart.fingerprint()["order"] != joined.fingerprint()["order"]
    assert {n: v for n, v in apart.fingerprint().items() if n != "order"} == {
        n: v for n, v in joined.fingerprint().items() if n != "order"
    }
    with pytest.raises(
        ValueError, match="data.documents is 'apat'; expected one of joined, apart; the nearest is apart"
    ):
        CorpusDataModule(**settings, documents="apat")


def test_a_model_that_sees_a_window_of_tokens_is_refused():
    model = tiny_model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    module = MoELM(model=model, micro_batch=1)
    with pytest.raises(
        ValueError, match="data.documents=apart: qwen3_moe has layers of full_attention, sliding_attention"
    ):
        module.evaluate(batch_of((3, 4), torch.Generator().manual_seed(0))[0])


def test_padding_counts_in_no_loss():
    """With attention_mask and no target_mask, on either side."""
    module = MoELM(model=tiny_model(), micro_batch=2, z_weight=0.0, weight=0.0).eval()
    text_BS = torch.from_numpy(np.random.default_rng(0).integers(6, 64, (2, 9)))
    mask_BS = torch.ones(2, 8, dtype=torch.long)
    mask_BS[0, 5:] = 0
    padded = {"input_ids": text_BS[:, :-1], "targets": text_BS[:, 1:], "attention_mask": mask_BS}
    short = {"input_ids": text_BS[:1, :5], "targets": text_BS[:1, 1:6]}
    with torch.no_grad():
        found, alone = module.evaluate(padded), module.evaluate(short)
    # The last token's own target is padding: it is not counted.
    assert found["tokens_B"].tolist() == [4, 8]
    assert float(found["nll_B"][0]) < float(alone["nll_B"][0])
    changed = {**padded, "targets": padded["targets"].clone()}
    changed["targets"][0, 4:] = 1
    with torch.no_grad():
        assert torch.equal(module.evaluate(changed)["nll_B"], found["nll_B"])
    module.log_dict = lambda *_args, **_settings: None
    assert float(module.training_step(padded, 0)["loss"]) == pytest.approx(
        float(found["nll_B"].sum() / found["tokens_B"].sum()), rel=1e-5
    )
