"""Faults of S-VCO for `make mutants`: (name, file, old, new, tests that must notice)."""

SCORES = "lightning_modules/svco/scores.py"
LOSSES = "lightning_modules/svco/losses.py"
TESTS = "tests/svco/test_losses.py tests/svco/test_scores.py"

MUTANTS = (
    ("a term turned round", LOSSES, '"reject": ("nw", "lw")', '"reject": ("lw", "nw")', TESTS),
    (
        "the mirror reads the wrong text",
        LOSSES,
        '"reject_mirror": ("nl", "wl")',
        '"reject_mirror": ("nw", "lw")',
        TESTS,
    ),
    ("no reference", LOSSES, "score - reference[s] for", "score for", TESTS),
    ("normalised by the other response's length", LOSSES, "tokens[s[1]] for s", 'tokens["w"] for s', TESTS),
    (
        "a response sees the other one",
        SCORES,
        "causal_TT & (same_RTT | (segment_RT[:, None, :] == 0))",
        "causal_TT",
        TESTS,
    ),
    (
        "positions of the second response go on from the first",
        SCORES,
        "positions_RT[r, start:end] = len(row.prompt) + torch.arange(len(response))",
        "positions_RT[r, start:end] = start + torch.arange(len(response))",
        TESTS,
    ),
    (
        "the first token of the second response is predicted by the first response",
        SCORES,
        "before[0] = len(row.prompt) - 1",
        "before[0] = start - 1",
        TESTS,
    ),
    ("the prompt's last token counts", SCORES, "len(row.prompt) - 1 : -1]", "len(row.prompt) - 2 : -2]", TESTS),
    (
        "the cached reference is that of another pair",
        "lightning_modules/svco/module.py",
        "value[numbers] for name",
        "value[numbers[::-1]] for name",
        "tests/svco/test_module.py",
    ),
    (
        "a resumed run starts the order anew",
        "datamodules/ordered.py",
        'self._done = state_dict["forwards"]',
        "self._done = 0",
        "tests/svco/test_module.py",
    ),
    (
        "a contrast moves the things too",
        "datamodules/scenes/world.py",
        "return replace(scene, **{attribute",
        "return replace(scene, seed=scene.seed + 1, **{attribute",
        "tests/svco/test_scenes.py",
    ),
    (
        "jitter from the process's generator",
        "datamodules/scenes/render.py",
        "np.random.default_rng(scene.seed)",
        "np.random.default_rng()",
        "tests/svco/test_scenes.py",
    ),
    (
        "a pair counts when one image is right",
        "lightning_modules/svco/grounding.py",
        "np.asarray(right_w, dtype=bool) & np",
        "np.asarray(right_w, dtype=bool) | np",
        "tests/svco/test_grounding.py",
    ),
    (
        "the pixel limit forgotten",
        "datamodules/scenes/mvc.py",
        "image.width * image.height > limit",
        "False",
        "tests/svco/test_mvc.py",
    ),
    (
        "an answer of PaliGemma sees its own future",
        "datamodules/scenes/reader.py",
        'int(self.kind == "PaliGemmaProcessor")',
        "0",
        "tests/families/test_vlm.py",
    ),
    (
        "a prompt without a picture goes on from another one's positions",
        SCORES,
        "        vlm.core.model.rope_deltas = None\n",
        "        pass\n",
        "tests/families/test_vlm.py",
    ),
    (
        "a second beginning of the text",
        "datamodules/scenes/reader.py",
        'given["add_special_tokens"] = False',
        "pass",
        "tests/families/test_vlm.py",
    ),
    (
        "a user's model judged on toy scenes",
        "lightning_modules/svco/evaluation.py",
        'return "scenes" if source.scenes else "pairs"',
        'return "scenes"',
        "tests/svco/test_user_model.py",
    ),
    (
        "pairs without a category are all pairs",
        "lightning_modules/svco/grounding.py",
        'for c in dict.fromkeys(categories) if c != "all"}',
        "for c in dict.fromkeys(categories)}",
        "tests/svco/test_grounding.py",
    ),
    (
        "greedy by the penalty of a model's folder",
        "lightning_modules/svco/evaluation.py",
        "repetition_penalty=1.0, ",
        "",
        "tests/svco/test_benchmarks.py",
    ),
)
