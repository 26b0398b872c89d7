"""An export is a plain folder: lm-eval's own command line scores it, here on a task whose data is local."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

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


def test_lm_eval_scores_an_export_as_its_logits_do(tokenizer, tmp_path):  # noqa: F811
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
    command = [
        *(str(Path(sys.executable).parent / "lm_eval"), "--model", "hf", "--device", "cpu", "--tasks", "toy_choice"),
        *("--model_args", f"pretrained={tmp_path / 'export'},dtype=float32", "--include_path", str(tmp_path / "tasks")),
        *("--output_path", str(tmp_path / "scores")),
    ]
    places = {"HF_DATASETS_CACHE": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(next((tmp_path / "scores").rglob("results_*.json")).read_text())["results"]
    right = 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([[int(w[1:]) for w in row["prompt"].split()]])
            logp = module.eval()(ids)[0, -1].log_softmax(-1)
            right += int(torch.stack([logp[int(c[1:])] for c in row["choices"]]).argmax()) == row["answer"]
    assert 0 < right < 24
    assert found["toy_choice"]["acc,none"] == pytest.approx(right / 24)
