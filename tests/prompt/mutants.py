"""Faults of prompts and skill neurons for `make mutants`: (name, file, old, new, tests that must notice)."""

ROOM = "lightning_modules/prompt/"
NEURONS_ROOM, TRANSFER_ROOM = "lightning_modules/skill_neurons/", "lightning_modules/transfer/"
FINDER, REMOVAL, HOOKS = (NEURONS_ROOM + f"{name}.py" for name in ("predictivity", "removal", "hooks"))
FAMILIES = "tests/prompt/test_families.py tests/prompt/test_tuners.py"
NEURONS = "tests/skill_neurons/test_predictivity.py"
TRANSFER = "tests/transfer/test_transfer.py"
PROMPTS = "tests/prompt/test_prompts.py"
P, TOGETHER = "tests/skill_neurons/test_significance.py", "tests/prompt/test_together.py"
SIGNIFICANCE, TOGETHER_FILE = NEURONS_ROOM + "significance.py", ROOM + "together.py"
LANGUAGE = "tests/prompt/test_language.py"
WORDS, WORDS_FILE = "tests/prompt/test_label_words.py", ROOM + "label_words.py"

MUTANTS = (
    ("a mask a word", WORDS_FILE, "(mask,) * (len(word) - 1)", "word[:-1]", WORDS),
    (
        "the first words of a class alone",
        WORDS_FILE,
        "for word in of_class]).mean(0)",
        "for word in of_class])[0]",
        WORDS,
    ),
    ("no probabilities", WORDS_FILE, "enumerate(word)], 1) - whole_BW", "enumerate(word)], 1)", WORDS),
    (
        "further masks do not move the prompt",
        ROOM + "backbone.py",
        '(count if batch["prompt_moves"] else 0)',
        "0",
        WORDS,
    ),
    (
        "the neuron's own sign where a gate multiplies it",
        ROOM + "feed_forward.py",
        "== 2 * width_of(linear[name])",
        "== 3 * width_of(linear[name])",
        TRANSFER,
    ),
    ("a neuron's mean counts as above it", FINDER, "> baseline_LPF[layer]", ">= baseline_LPF[layer] - 0.01", NEURONS),
    ("family-wise by the mean neuron", SIGNIFICANCE, "null_RLF.flatten(1).amax(1)", "null_RLF.flatten(1).mean(1)", P),
    ("a tie is not reached", SIGNIFICANCE, "+= (null_RLF >= true_LF - TIE)", "+= (null_RLF > true_LF + TIE)", P),
    (
        "prompts of a batch change places",
        TOGETHER_FILE,
        "prompts_KPH = torch.stack(list(prompts))",
        "prompts_KPH = torch.stack(list(prompts)[::-1])",
        TOGETHER,
    ),
    ("only one side of a neuron", FINDER, "torch.maximum(accuracy, 1 - accuracy)", "accuracy", NEURONS),
    ("mean over tokens, not the best", FINDER, "1 - accuracy).amax(2)", "1 - accuracy).mean(2)", NEURONS),
    (
        "the null has the true labels",
        FINDER,
        "labels_N[torch.randperm(len(labels_N), generator=draw)]",
        "labels_N",
        NEURONS,
    ),
    (
        "ties go to the higher number",
        FINDER,
        "pred_LF.argsort(dim=1, descending=True, stable=True)",
        "pred_LF.shape[1] - 1 - pred_LF.flip(1).argsort(dim=1, descending=True, stable=True)",
        NEURONS,
    ),
    ("padding in the moments", FINDER, "x_BTF[mask_BT]", "x_BTF.flatten(0, 1)", FAMILIES),
    (
        "noise of its own at every position",
        HOOKS,
        "torch.randn(len(neurons_BTF), len(mask_F)",
        "torch.randn(*neurons_BTF.shape[:2], len(mask_F)",
        NEURONS,
    ),
    (
        "hooks stay after an exception",
        HOOKS,
        "hooks.enter_context(site",
        "(site",
        NEURONS,
    ),
    (
        "kept neurons' means in the bias too, as in the released code",
        REMOVAL,
        "weight[:, gone] @ mean_F.to(weight.device, weight.dtype)[gone]",
        "weight @ mean_F.to(weight.device, weight.dtype)",
        FAMILIES,
    ),
    ("no means in the bias", REMOVAL, "bias + constant", "bias", FAMILIES),
    (
        "padding holds the prompt's place, so RoBERTa's positions begin too late",
        ROOM + "backbone.py",
        "if i not in special",
        "if i == tokenizer.pad_token_id",
        FAMILIES,
    ),
    (
        "the prompt overwrites [MASK]",
        ROOM + "backbone.py",
        "prompt, at):",
        "prompt, 0):",
        TRANSFER,
    ),
    (
        "a prompt on demand begins elsewhere",
        ROOM + "prompts.py",
        "with seeded(seed):",
        "with seeded(seed + 1):",
        "tests/prompt/test_tuners.py tests/prompt/test_prompts.py",
    ),
    (
        "a prompt is looked up without its learning rate",
        ROOM + "prompts.py",
        '"tuning": tuning,',
        '"tuning": {},',
        PROMPTS,
    ),
    (
        "stacked prompts in the order of examples",
        TRANSFER_ROOM + "stacked.py",
        "unflatten(0, (number, size))",
        "unflatten(0, (size, number)).transpose(0, 1)",
        TRANSFER,
    ),
    (
        "overlap without the sizes",
        TRANSFER_ROOM + "indicators.py",
        "/ product**0.5 if product",
        "/ len(a_N) if product",
        TRANSFER,
    ),
    (
        "activations read at the first soft token",
        TRANSFER_ROOM + "indicators.py",
        'int(batch["ask"])',
        'int(batch["prompt_at"])',
        TRANSFER,
    ),
    (
        "the diagonal correlates with itself",
        TRANSFER_ROOM + "indicators.py",
        "off = ~np.eye(len(tasks), dtype=bool)",
        "off = np.ones((len(tasks), len(tasks)), dtype=bool)",
        TRANSFER,
    ),
    (
        "never reached counts as reached at the end",
        TRANSFER_ROOM + "curves.py",
        "None if there is None else",
        "1.0 if there is None else",
        TRANSFER,
    ),
    (
        "the projector's gradient is cut",
        TRANSFER_ROOM + "projector.py",
        "scores(examples, prompt)",
        "scores(examples, prompt.data.requires_grad_())",
        TRANSFER,
    ),
    (
        "a neuron's token chosen on the test",
        NEURONS_ROOM + "single_neurons.py",
        "token = (val_P - 0.5)",
        "token = (test_P - 0.5)",
        NEURONS,
    ),
    (
        "the best of the trials, not their mean",
        NEURONS_ROOM + "studies.py",
        "for one in self.signs(task)]).mean(0)",
        "for one in self.signs(task)]).amax(0)",
        NEURONS,
    ),
    (
        "every batch has the first one's labels",
        FINDER,
        "labels_RN[:, start : start + size]",
        "labels_RN[:, :size]",
        NEURONS,
    ),
    (
        "a run's prompt of another task is taken",
        ROOM + "prompts.py",
        'if (tuned := found.about.get("task")) != task:',
        "if False:",
        PROMPTS,
    ),
    (
        "from_run is ignored without its init",
        ROOM + "tuners.py",
        'if init == "vocabulary" and len(given) == 1:',
        "if False:",
        PROMPTS,
    ),
    (
        "the flipped task is not flipped",
        "datamodules/tasks/language.py",
        "named[::-1] if flipped else named",
        "named",
        LANGUAGE,
    ),
    (
        "the tag's positions are shifted with the sentence",
        "datamodules/tasks/pretraining.py",
        "(torch.arange(ids.shape[1]) >= heads)",
        "(torch.arange(ids.shape[1]) >= 0)",
        LANGUAGE,
    ),
    (
        "label words are masked as rarely as others",
        "datamodules/tasks/pretraining.py",
        "] = MASKED_LABELS",
        "] = MASKED_WORDS",
        LANGUAGE,
    ),
    (
        "an embedded backbone depends on what was drawn before",
        ROOM + "backbones.py",
        "torch.manual_seed(self.seed)\n            return RobertaForMaskedLM",
        "return RobertaForMaskedLM",
        LANGUAGE,
    ),
    (
        "weights drawn at random",
        "lightning_modules/common/load.py",
        "    if missing:",
        "    if False:",
        "tests/prompt/test_bad_inputs.py",
    ),
)
