"""Breaks the code on purpose, in a copy, and sees whether a test notices: `make mutants`.

Each mutant is a fault that a public implementation of the load-balancing loss has had, or could have.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.claims import mutants as claims
from tests.prompt import mutants as prompt
from tests.runtime import mutants as runtime
from tests.svco import mutants as svco

PROJECT = Path(__file__).parents[1]
SYNC = "lightning_modules/moe/callbacks/expert_frequency_sync.py"
LOSSES = "lightning_modules/moe/losses.py"
ROUTERS = "lightning_modules/moe/routers.py"
MODULE = "lightning_modules/moe/module.py"
MOE_TESTS = "tests/moe/test_losses.py tests/moe/test_trainer.py tests/moe/test_expert_frequency_sync.py"


class Mutant(NamedTuple):
    """Replace `old` (which must be there) by `new` in `file`; `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str = MOE_TESTS


MUTANTS = (
    Mutant("dividing by the world size", SYNC, "tokens_L, forwards * blocks, stats", "tokens_L, blocks, stats"),
    Mutant(
        "all-reducing P, summed",
        MODULE,
        "prob_sums_LME=stats.prob_sums_LME,",
        "prob_sums_LME=(torch.distributed.nn.all_reduce(stats.prob_sums_LME.clone())"
        " if torch.distributed.is_initialized() else stats.prob_sums_LME),",
    ),
    # The mean by an autograd collective is no fault: its gradient, R times too large, meets DDP's mean over R.
    Mutant(
        "all-reducing P, its gradient 1/R",
        MODULE,
        "prob_sums_LME=stats.prob_sums_LME,",
        "prob_sums_LME=(stats.prob_sums_LME / torch.distributed.get_world_size() + (torch.distributed.nn.all_reduce("
        "stats.prob_sums_LME.clone()) / torch.distributed.get_world_size() - stats.prob_sums_LME"
        " / torch.distributed.get_world_size()).detach() if torch.distributed.is_initialized() else stats.prob_sums_LME),",
    ),
    Mutant("resetting in on_before_zero_grad", SYNC, "def on_before_optimizer_step", "def on_before_zero_grad"),
    Mutant("not resetting", SYNC, "        self.reset()\n", "        pass\n"),
    Mutant(
        "averaging f instead of summing counts",
        SYNC,
        "torch.cat([frequency.counts_LME.sum(1), frequency.tokens_LM.sum(1, keepdim=True)], 1)",
        "torch.cat([(frequency.counts_LME * 10**6 // frequency.counts_LME.sum(-1, keepdim=True).clamp(min=1)).sum(1), "
        "frequency.tokens_LM.sum(1, keepdim=True)], 1)",
    ),
    Mutant(
        "pooling layers",
        LOSSES,
        "    layers_LM = lbl_per_block(frequency=frequency, prob_sums_LME=prob_sums_LME)\n",
        "    pooled = Frequency(frequency.counts_LME.sum(0, keepdim=True), frequency.tokens_LM.sum(0, keepdim=True))\n"
        "    layers_LM = lbl_per_block(frequency=pooled, prob_sums_LME=prob_sums_LME.sum(0, keepdim=True))\n",
    ),
    Mutant("double softmax", ROUTERS, "logits_TE.softmax(-1)", "logits_TE.softmax(-1).softmax(-1)"),
    Mutant(
        "every router scores by softmax",
        "lightning_modules/moe/routing.py",
        "self.scoring = self._scoring(choices)",
        'self.scoring = "softmax"',
        "tests/families/test_moe.py",
    ),
    Mutant(
        "a head's scale left out",
        "lightning_modules/moe/head.py",
        "hidden_TH if scale == 1 else hidden_TH * scale",
        "hidden_TH",
        "tests/families/test_moe.py",
    ),
    Mutant(
        "a resumed order that starts the epoch again",
        "datamodules/order.py",
        "range(self.start, self.forwards)",
        "range(0, self.forwards - self.start)",
        "tests/datamodules/test_order.py",
    ),
    Mutant(
        "a split that depends on the process",
        "datamodules/corpus/cache.py",
        "number_of(document, size=4) % 100",
        "hash(document) % 100",
        "tests/datamodules/test_corpus.py",
    ),
    Mutant(
        "padding in the tally",
        "lightning_modules/moe/held_out.py",
        "scores_LT = torch.where(stats.valid_T, stats.selected_scores_LT(), 0.0)",
        "scores_LT = stats.selected_scores_LT()",
        "tests/moe/test_specialization.py",
    ),
    Mutant(
        "what a notebook puts away is text",
        "datamodules/corpus/folder.py",
        'part.startswith(".")',
        'part.startswith("..")',
        "tests/datamodules/test_sources.py",
    ),
    Mutant(
        "a list whose commas are anywhere",
        "datamodules/jsons.py",
        "if not first and not comma:",
        "if False:",
        "tests/datamodules/test_jsons.py",
    ),
    Mutant(
        "a mark counts without its documents",
        "datamodules/corpus/hub.py",
        ' and documents.is_file() and documents.stat().st_size >= found["size"]',
        "",
        "tests/datamodules/test_hub_corpus.py",
    ),
    Mutant(
        "a mean of means over documents apart",
        MODULE,
        "if self._mean_counts is not None:",
        "if False:",
    ),
    *(Mutant(*fault) for fault in svco.MUTANTS + prompt.MUTANTS + claims.MUTANTS + runtime.MUTANTS),
)


HEALTHY = Mutant("nothing broken", SYNC, "", "")


def survives(mutant: Mutant) -> bool:
    """True when every test passes in a copy of the checkout that carries the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        skip = shutil.ignore_patterns(".venv", ".git", "runs", "mlruns", "mlflow.db", "__pycache__")
        shutil.copytree(PROJECT, copy, ignore=skip)
        path = copy / mutant.file
        text = path.read_text()
        assert mutant.old in text, f"{mutant.name}: nothing to mutate in {mutant.file}"
        path.write_text(text.replace(mutant.old, mutant.new) if mutant.old else text)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *mutant.tests.split()]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        passed = "SURVIVED" if mutant.old else "passes"
        verdict = passed if done.returncode == 0 else "killed"
        print(f"{verdict:9} {mutant.name}: {failed[0][:110] if failed else ''}", flush=True)
        return done.returncode == 0


if __name__ == "__main__":
    wanted = sys.argv[1:]
    # A test that fails anyway kills every mutant and shows nothing.
    chosen = [m for m in MUTANTS if not wanted or any(w in m.name for w in wanted)]
    for tests in dict.fromkeys(m.tests for m in chosen):
        if not survives(HEALTHY._replace(tests=tests)):
            sys.exit(f"the tests fail without a mutant: {tests}")
    left = [m.name for m in chosen if survives(m)]
    sys.exit(f"survived: {', '.join(left)}" if left else 0)
