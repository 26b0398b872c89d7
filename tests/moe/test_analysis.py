"""Any mixture can be looked at without training it."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GptOssConfig

from lightning_modules.look import page
from lightning_modules.look.finished import Finished
from lightning_modules.moe import look
from lightning_modules.moe.comparison import shares
from lightning_modules.moe.specialization import balance_over
from lightning_modules.runtime.config import register_resolvers
from lightning_modules.runtime.study import Desk
from tests.moe.test_pretrained import WORDS, olmoe  # noqa: F401, a fixture

PROJECT = Path(__file__).parents[2]


def composed(folder, *overrides):
    register_resolvers(project=PROJECT)
    settings = [f"paths.cache={folder}/cache", "data=synthetic", "data.seq_len=16"]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        return compose("config", overrides=[*overrides, *settings])


def analyses(folder, model, *overrides):
    return composed(folder, "experiment=moe/analyse", f"model.pretrained={model}", *overrides)


def analysis(folder, model, *overrides):
    return instantiate(analyses(folder, model, *overrides).study)


@pytest.fixture(scope="module")
def done(olmoe, tmp_path_factory):  # noqa: F811
    """(study, folder of its run, metrics)."""
    folder = tmp_path_factory.mktemp("analysis")
    study = analysis(folder, olmoe, "study.tokens=2")
    study.prepare()
    return study, folder, study.run(Desk(folder=folder))


@pytest.mark.slow
def test_a_model_of_a_folder_is_measured_as_a_run_of_ours(done):
    study, folder, metrics = done
    share, domains = shares({"folder": folder})
    assert domains == ["vowels", "digits", "hard", "soft"]
    assert share.shape == (4, 2, 8)
    assert 0 <= metrics["test/mutual_information"] <= math.log(4)
    assert metrics["test/mutual_information_shuffled"] > 0
    assert 0 < metrics["test/routing_entropy"] <= math.log(8) + 1e-6
    assert 0.5 * WORDS < metrics["test/ppl"] < 2 * WORDS, "random weights know nothing"
    # The more sequences share a frequency, the more balanced they look.
    scopes = [metrics[f"test/lbl_{scope}"] for scope in ("sequence", "micro", "domain", "global")]
    assert scopes == sorted(scopes, reverse=True) and scopes[0] > scopes[-1] >= 1 - 1e-3
    assert {p.stem for p in (folder / "figures").glob("*.png")} == {
        "selection_heatmap",
        "topk_score_sum",
        "coactivation",
    }
    assert (folder / "tables" / "balance_by_scope.csv").is_file()
    assert {"data", "tokenizer", "base"} <= set(study.fingerprint())


@pytest.mark.slow
def test_the_routing_of_every_token_is_written_out_as_the_plain_model_routes_it(done, olmoe):  # noqa: F811
    _, folder, _ = done
    with safe_open(folder / "tables" / "routing_tokens.safetensors", "pt") as file:
        kept, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert kept["tokens_NS"].shape == (8, 16)
    assert kept["experts_NSLK"].shape == kept["scores_NSLK"].shape == (8, 16, 2, 2)
    assert kept["domain_N"].bincount().tolist() == [2, 2, 2, 2]
    assert json.loads(about["domains"])[1] == "digits"
    assert set(json.loads(about["words"])) == {str(i) for i in kept["tokens_NS"].unique().tolist()}
    model = AutoModelForCausalLM.from_pretrained(olmoe)
    with torch.no_grad():
        logits = model(input_ids=kept["tokens_NS"], output_router_logits=True).router_logits
    for layer, logits_TE in enumerate(logits):
        best = logits_TE.softmax(-1).topk(2)
        torch.testing.assert_close(kept["scores_NSLK"][:, :, layer].flatten(0, 1), best.values)
        assert torch.equal(kept["experts_NSLK"][:, :, layer].flatten(0, 1).long(), best.indices)


@pytest.mark.slow
def test_its_page_shows_the_shares_it_measured_and_is_made_again_without_words(done, olmoe):  # noqa: F811
    _, folder, metrics = done
    (run,) = page.read(folder / page.LOOK)["runs"]
    share, domains = shares({"folder": folder})
    assert (run["name"], run["domains"]) == (Path(olmoe).name, domains)
    torch.testing.assert_close(torch.tensor(run["share"]).permute(2, 0, 1), share, atol=1e-5, rtol=0, check_dtype=False)
    assert len(run["texts"]) > 0
    cfg = analyses(folder, olmoe)
    finished = Finished(run["name"], cfg, metrics, lambda name: folder / name)
    assert json.loads(json.dumps(look.page(finished))) == run
    bare = look.page(finished._replace(text=False))
    assert (bare["texts"], bare["share"]) == ([], run["share"])


def test_the_page_of_a_family_without_sdpa_is_made_from_its_export(tmp_path):
    sizes = dict(hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=16)
    config = GptOssConfig(vocab_size=300, num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "export")

    def artifact(name):
        if name == page.LOOK:
            raise ValueError("it made none")
        return tmp_path / name

    cfg = composed(tmp_path, "data.vocab_size=300", "data.eval_windows=2")
    found = look.page(Finished("one", cfg, {}, artifact))
    assert (found["experts"], found["top_k"], len(found["texts"])) == (4, 2, 8)


def test_balance_over_groups_is_that_of_their_sums():
    """Two sequences, each on an expert of its own: collapsed alone, balanced together."""
    given = dict(
        counts_NLE=torch.tensor([[[8, 0]], [[0, 8]]]),
        prob_sums_NLE=torch.tensor([[[8.0, 0.0]], [[0.0, 8.0]]]),
        tokens_N=torch.tensor([8, 8]),
    )
    assert balance_over(**given, group_N=torch.tensor([0, 1])) == (2.0, 1.0)
    assert balance_over(**given, group_N=torch.tensor([0, 0])) == (1.0, 0.0)
