"""What a user does with an exported mixture: reads its card, generates until it stops, trains it on."""

import json
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.moe.module import MoELM
from tests.moe.test_models import tokenizer  # noqa: F401
from tests.moe.toy import fit, tiny_model

END = 63


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):  # noqa: F811
    """Of a model that says <end> after w7: its own vectors of the two words are tied for that."""
    folder = tmp_path_factory.mktemp("export")
    _, module, _ = fit(steps=2, model=tiny_model(tie_embeddings=False), weight=0.02)
    with torch.no_grad():
        output, words = module.model.get_output_embeddings().weight, module.model.get_input_embeddings().weight
        output.zero_()
        hidden = module.head.body(input_ids=torch.tensor([[1, 2, 7]])).last_hidden_state[0]
        output[END], output[7] = hidden[2] * 10, hidden[1] * 10
        assert words.shape == output.shape
    data = SimpleNamespace(tokenizer=tokenizer, datasheet=lambda: [{"domain": "toy", "documents": 3}])
    module.export(folder, datamodule=data)
    return folder


def test_it_generates_and_stops(exported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, words = AutoModelForCausalLM.from_pretrained(exported), AutoTokenizer.from_pretrained(exported)
    assert loaded.generation_config.eos_token_id == loaded.config.eos_token_id == END
    assert loaded.config.use_cache and loaded.generation_config.use_cache
    given = words(["w1 w2", "w1 w2"], return_tensors="pt")
    made = loaded.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=20)
    assert made[0].tolist() == [1, 2, 7, END], "one word, then its end, not twenty"
    plain = loaded.generate(
        input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=20, use_cache=False
    )
    assert torch.equal(made, plain)


def test_the_coefficient_of_the_balance_is_that_of_the_run(exported):
    """transformers' loss of an even router is top_k, ours is 1: their product with the coefficient must agree."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.config.router_aux_loss_coef == pytest.approx(0.02 / loaded.config.num_experts_per_tok)
    ids = torch.arange(16).view(2, 8)
    one_layer = AutoModelForCausalLM.from_pretrained(exported, num_hidden_layers=1)
    found = one_layer(input_ids=ids, output_router_logits=True)
    module = MoELM(model=one_layer, micro_batch=2, weight=1.0)
    module.hidden({"input_ids": ids})
    stats = module.routing({"input_ids": ids})
    assert float(found.aux_loss) / 2 == pytest.approx(float(module.lbl(stats, stats.frequency)), rel=1e-5)


def test_two_steps_of_transformers_own_trainer(exported, tmp_path):
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    pytest.importorskip("accelerate")
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    before = {n: p.detach().clone() for n, p in loaded.named_parameters()}
    texts = [torch.randint(0, 64, (8,)) for _ in range(8)]
    rows = [{"input_ids": t, "labels": t} for t in texts]
    settings = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        logging_steps=1,
    )
    trainer = Trainer(model=loaded, args=settings, train_dataset=rows)
    trainer.train()
    assert trainer.state.global_step == 2
    changed = [n for n, p in loaded.named_parameters() if not torch.equal(p, before[n])]
    assert any("experts" in n for n in changed) and any("gate" in n for n in changed)


def test_its_card_and_its_config(exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "| toy | 3 |" in card
    assert "| load-balancing weight | 0.02 |" in card
    assert "2 steps" in card and "| moe/lbl |" in card
    config = json.loads((exported / "config.json").read_text())
    assert config.get("pad_token_id") is None, "an embedding takes no gradient at padding"


def test_the_coefficient_of_a_sum_over_layers_is_as_many_times_as_large(tokenizer, tmp_path):  # noqa: F811
    """transformers' loss is one of all layers, and a run's is their sum."""
    module = MoELM(model=tiny_model(layers=3), micro_batch=2, weight=0.02, layer_reduction="sum")
    module.export(tmp_path, datamodule=SimpleNamespace(tokenizer=tokenizer))
    assert json.loads((tmp_path / "config.json").read_text())["router_aux_loss_coef"] == pytest.approx(3 * 0.02 / 2)
