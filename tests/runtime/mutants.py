"""Faults of the runtime: (name, file, old, new, tests)."""

BEGUN, TESTS = "lightning_modules/runtime/begun.py", "tests/runtime/test_begun.py"
SWEEP = "lightning_modules/runtime/sweep.py"
OPENMP = "lightning_modules/runtime/openmp.py"

MUTANTS = (
    ("an edited config is none", BEGUN, "if json.dumps(before[key]) != json.dumps(now[key]):", "if False:", TESTS),
    (
        "a key that came or went is no change",
        BEGUN,
        "dict.fromkeys((*before, *now))",
        "before.keys() & now.keys()",
        TESTS,
    ),
    ("another seed is the same run", BEGUN, 'key != "seed" and not identity', "not identity", TESTS),
    (
        "a file is known by its name and size alone",
        BEGUN,
        "found.update(file.read(SAMPLE))",
        "file.read(SAMPLE)",
        TESTS,
    ),
    (
        "a sweep takes another config's job for done",
        SWEEP,
        '            begun.check(cfg, folder, here="setup" not in hydra_config.launcher)\n',
        "",
        TESTS,
    ),
    (
        "a run goes on with whatever config",
        "main.py",
        "                begun.check(cfg, place)\n",
        "                pass\n",
        TESTS,
    ),
    ("a mean over two configs", BEGUN, "        if unlike:\n", "        if False:\n", TESTS),
    (
        "threads spin beside others",
        OPENMP,
        "environment.update(ASLEEP)",
        "pass",
        "tests/runtime/test_start_up.py",
    ),
    (
        "cores of others' jobs count",
        "lightning_modules/runtime/load.py",
        "[each[core] for core in own]",
        "each",
        "tests/runtime/test_load.py",
    ),
    (
        "a setting is the seeds that survived",
        "lightning_modules/runtime/sweep_look.py",
        "if values and len(values) < tried[name]",
        "if False",
        "tests/runtime/test_sweep_look.py",
    ),
    (
        "a search for the worst",
        "lightning_modules/common/metric_names.py",
        'else "maximize"',
        'else "minimize"',
        "tests/runtime/test_preflight.py",
    ),
    (
        "what is refused for ever is tried for ever",
        "lightning_modules/runtime/courier.py",
        "if not self._is_refusal(error):",
        "if True:",
        "tests/runtime/test_tracking.py",
    ),
    (
        "a mark beyond the journal counts",
        "lightning_modules/runtime/journal.py",
        "return offset if ends_a_line(self.path, offset) else 0",
        "return offset",
        "tests/runtime/test_tracking.py",
    ),
    (
        "pauses are minutes",
        "lightning_modules/runtime/journal.py",
        'and entry["kind"] != "start" else 0.0',
        "else 0.0",
        "tests/runtime/test_tracking.py",
    ),
    (
        "a fork of edited code",
        "lightning_modules/runtime/forks.py",
        "return _sources is None or _sources == sources()",
        "return True",
        "tests/runtime/test_forks.py",
    ),
    (
        "a picture that is behind stays",
        "lightning_modules/runtime/outcome.py",
        "if behind or report",
        "if report",
        "tests/runtime/test_sweep_report.py",
    ),
    (
        "a replay's folder is looked at as the run it replays",
        "lightning_modules/runtime/look.py",
        "known.is_id(name) and not folder.is_dir()",
        "known.is_id(name)",
        "tests/runtime/test_replay.py",
    ),
    (
        "a figure of the dots that matplotlib thinks of",
        "lightning_modules/common/style.py",
        '"figure.dpi": 150',
        '"savefig.dpi": 150',
        "tests/common/test_style.py",
    ),
    (
        "files moved between folders",
        "lightning_modules/runtime/begun.py",
        "        if below and path.is_dir():",
        "        if False:",
        "tests/runtime/test_begun.py",
    ),
)
