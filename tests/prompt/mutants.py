"""Faults of prompts and skill neurons for `make mutants`: (name, file, old, new, tests that must notice)."""

ROOM = "lightning_modules/prompt/"
FINDER, PRUNING, HOOKS = ROOM + "skill_neurons.py", ROOM + "pruning.py", ROOM + "hooks.py"
FAMILIES = "tests/prompt/test_families.py tests/prompt/test_tuners.py"
NEURONS = "tests/prompt/test_skill_neurons.py"
TRANSFER = "tests/prompt/test_transfer.py"
PROMPTS = "tests/prompt/test_prompts.py"

MUTANTS = (
    ("a neuron's mean counts as above it", FINDER, "> baseline_LPF[layer]", ">= baseline_LPF[layer] - 0.01", NEURONS),
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
        "stable=True)[:, :count]",
        "stable=True).flip(1)[:, -count:].flip(1) * 0",
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
        "    finally:\n        for handle",
        "    except ZeroDivisionError:\n        for handle",
        NEURONS,
    ),
    (
        "kept neurons' means in the bias too, as in the released code",
        PRUNING,
        "weight[:, gone] @ mean_F.to(weight.device, weight.dtype)[gone]",
        "weight @ mean_F.to(weight.device, weight.dtype)",
        FAMILIES,
    ),
    ("no means in the bias", PRUNING, "bias + constant", "bias", FAMILIES),
    (
        "positions count padding",
        ROOM + "backbone.py",
        "(attention_mask.cumsum(1) - 1).clamp(min=0)",
        "torch.arange(attention_mask.shape[1])[None].expand_as(attention_mask)",
        FAMILIES,
    ),
    (
        "the prompt overwrites [MASK]",
        ROOM + "backbone.py",
        'at, length = int(batch["prompt_at"]), prompt.shape[-2]',
        "at, length = 0, prompt.shape[-2]",
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
        ROOM + "transfer.py",
        "unflatten(0, (number, size))",
        "unflatten(0, (size, number)).transpose(0, 1)",
        TRANSFER,
    ),
    (
        "overlap without the sizes",
        ROOM + "indicators.py",
        "/ product**0.5 if product",
        "/ len(a_N) if product",
        TRANSFER,
    ),
    (
        "activations read at the first soft token",
        ROOM + "indicators.py",
        'int(batch["ask"])',
        'int(batch["prompt_at"])',
        TRANSFER,
    ),
    (
        "the diagonal correlates with itself",
        ROOM + "indicators.py",
        "off = ~np.eye(len(tasks), dtype=bool)",
        "off = np.ones((len(tasks), len(tasks)), dtype=bool)",
        TRANSFER,
    ),
    (
        "never reached counts as reached at the end",
        ROOM + "tpt.py",
        "None if there is None else",
        "1.0 if there is None else",
        TRANSFER,
    ),
    (
        "the projector's gradient is cut",
        ROOM + "projector.py",
        "scores(examples, prompt)",
        "scores(examples, prompt.data.requires_grad_())",
        TRANSFER,
    ),
)
