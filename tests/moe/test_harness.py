"""EleutherAI's harness on an export, on a task whose data is local."""

import json
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.moe.harness import evaluate
from tests.moe.test_models import tokenizer  # noqa: F401, a fixture
from tests.moe.toy import fit

TASK = """
task: toy_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.mark.slow
def test_the_harness_scores_an_export_as_its_logits_do(tokenizer, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, module, _ = fit(steps=5)
    module.export(tmp_path / "export", datamodule=SimpleNamespace(tokenizer=tokenizer))
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(24):
        words = torch.randint(0, 60, (6,), generator=draw).tolist()
        rows.append(
            {"prompt": " ".join(f"w{w}" for w in words[:3]), "choices": [f"w{w}" for w in words[3:]], "answer": 1}
        )
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "toy.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    found = evaluate(tmp_path / "export", tasks=["toy_choice"], include=tmp_path / "tasks")
    right = 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([[int(w[1:]) for w in row["prompt"].split()]])
            logp = module.eval()(ids)[0, -1].log_softmax(-1)
            right += int(torch.stack([logp[int(c[1:])] for c in row["choices"]]).argmax()) == row["answer"]
    assert 0 < right < 24
    assert found["toy_choice"]["acc,none"] == pytest.approx(right / 24)


@pytest.mark.slow
def test_what_is_missing_is_named(tokenizer, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"holds no config.json; expected the export/ folder"):
        evaluate(tmp_path, tasks=["hellaswag"])
    _, module, _ = fit(steps=1)
    module.export(tmp_path, datamodule=SimpleNamespace(tokenizer=tokenizer))
    with pytest.raises(ValueError, match=r"lm-eval knows no task helaswag; .* lists them"):
        evaluate(tmp_path, tasks=["helaswag"])
