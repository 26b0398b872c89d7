"""Faults of the claims table for `make mutants`: (name, file, old, new, tests that must notice)."""

ROOM = "lightning_modules/claims/"
STATISTICS, EVIDENCE, CLAIM, REPORT, VIEWS = (
    ROOM + f"{name}.py" for name in ("statistics", "evidence", "claim", "report", "views")
)
POWER, KEPT, FIXED = (ROOM + f"{name}.py" for name in ("power", "kept", "fixed"))
POWERS, OLD = (f"tests/claims/test_{name}.py" for name in ("power", "kept"))
RULES, ROWS, FILES = (f"tests/claims/test_{name}.py" for name in ("statistics", "report", "claim"))

MUTANTS = (
    ("a margin that does not count", STATISTICS, "found.low > 0 and found.effect >= margin", "found.low > 0", RULES),
    ("no correction for many claims", STATISTICS, "left_P * p_P[order]", "p_P[order]", RULES),
    (
        "claims that were not run do not count",
        STATISTICS,
        "len(p_P) - np.arange",
        "np.isfinite(p_P).sum() - np.arange",
        RULES,
    ),
    ("runs of an edited config are one arm", EVIDENCE, "if told := _unlike(params):", "if False:", ROWS),
    ("infinity is the largest number", "lightning_modules/runtime/foreign.py", "if abs(v) >= most", "if False", ROWS),
    ("an integral that misses its peak", POWER, ", float(stats.chi.isf(1e-12, df)))", ", math.inf)", POWERS),
    (
        "an edited config is done already",
        ROOM + "run.py",
        "            begun.check(cfg, folder)\n",
        "            pass\n",
        "tests/claims/test_run.py",
    ),
    ("two seeds are enough", STATISTICS, "found.n < needed", "found.n < 2", RULES),
    ("the test of the other side", STATISTICS, 'alternative="greater")', 'alternative="less")', RULES),
    ("an interval that moves", STATISTICS, "rng=0", "rng=None", RULES),
    (
        "runs that failed are evidence",
        EVIDENCE,
        "attributes.status = 'FINISHED'",
        "attributes.status != 'KILLED'",
        ROWS,
    ),
    ("one family for all papers", EVIDENCE, "return row.claim.paper, row", "return '', row", ROWS),
    (
        "a confirmation in the first series' family",
        EVIDENCE,
        ".data, series, together",
        ".data, 'first', together",
        ROWS,
    ),
    (
        "later claims of all days one family",
        EVIDENCE,
        'if series == "later" else ()',
        'if series == "never" else ()',
        ROWS,
    ),
    (
        "half of a confirmation's seeds are enough",
        CLAIM,
        "max(len(self.seeds), len(",
        "min(len(self.seeds), len(",
        ROWS,
    ),
    ("a confirmation on seeds already seen", CLAIM, "known := self._seen(trial) &", "known := set() &", FILES),
    ("another kind of data settles it", EVIDENCE, "row.trial.scale, row.trial.data\n", 'row.trial.scale, ""\n', ROWS),
    ("fewer seeds replace more", REPORT, 'if len(row["seeds"]) > now', 'if len(row["seeds"]) < now', ROWS),
    ("an arm counted backwards", CLAIM, "sum(weight * values[name]", "sum(abs(weight) * values[name]", FILES),
    ("fields that nobody knows are taken", CLAIM, 'extra="forbid"', 'extra="ignore"', FILES),
    ("a report of the moment", VIEWS, '"runs": ids', '"runs": [str(id(ids))]', ROWS),
    ("power without Holm", POWER, "st.ALPHA / family", "st.ALPHA", ROWS),
    ("power of a normal test", POWER, "stats.t.isf(alpha, df)", "stats.norm.isf(alpha)", POWERS),
    ("power of one side of two", POWER, "(2 * stats.norm.cdf(", "(stats.norm.cdf(", POWERS),
    ("one seed too many", POWER, "return found if found <= MOST", "return found + 1 if found <= MOST", POWERS),
    (
        "a margin that is not halved",
        POWER,
        "rule=rule, margin=factor * margin)\n",
        "rule=rule, margin=margin)\n",
        POWERS,
    ),
    ("kept rows give way", EVIDENCE, "len(old.values) >= len(row.values)", "len(old.values) > len(row.values)", OLD),
    ("kept rows of other seeds", KEPT, "if seed not in claim.seeds_of(trial)]", "if seed is None]", OLD),
    ("a moved margin passes for the old one", KEPT, '("rule", "margin",', '("rule",', OLD),
    ("the edge of a shallow clone is the beginning", FIXED, '== "true" else', '== "no" else', OLD),
    ("words move the day a claim was fixed", FIXED, 'include={"metric",', 'include={"statement", "metric",', OLD),
    ("runs before their claim pass", FIXED, 'git("merge-base", since, commit)', 'git("merge-base", since, since)', OLD),
)
