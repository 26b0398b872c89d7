"""Faults of the claims table for `make mutants`: (name, file, old, new, tests that must notice)."""

ROOM = "lightning_modules/claims/"
STATISTICS, EVIDENCE, CLAIM, REPORT, VIEWS = (
    ROOM + f"{name}.py" for name in ("statistics", "evidence", "claim", "report", "views")
)
RULES, ROWS, FILES = (f"tests/claims/test_{name}.py" for name in ("statistics", "report", "claim"))

MUTANTS = (
    ("a margin that does not count", STATISTICS, "found.low > 0 and found.effect >= margin", "found.low > 0", RULES),
    ("no correction for many claims", STATISTICS, "(len(order) - place) * p_P[index]", "p_P[index]", RULES),
    ("two seeds are enough", STATISTICS, "found.n < needed", "found.n < 2", RULES),
    ("the test of the other side", STATISTICS, 'effects_S, bound, "greater")', 'effects_S, bound, "less")', RULES),
    ("an interval that moves", STATISTICS, "rng=0", "rng=None", RULES),
    (
        "runs that failed are evidence",
        EVIDENCE,
        "attributes.status = 'FINISHED'",
        "attributes.status != 'KILLED'",
        ROWS,
    ),
    ("one family for all papers", EVIDENCE, "families[row.claim.paper, row", "families['', row", ROWS),
    ("a confirmation in the first series' family", EVIDENCE, ".data, row.trial.series]", ".data, 'first']", ROWS),
    (
        "half of a confirmation's seeds are enough",
        CLAIM,
        "max(len(self.seeds), len(",
        "min(len(self.seeds), len(",
        ROWS,
    ),
    ("a confirmation on seeds already seen", CLAIM, 'trial.series == "confirmation" and', "False and", FILES),
    ("fewer seeds replace more", REPORT, 'if len(row["seeds"]) > now', 'if len(row["seeds"]) < now', ROWS),
    ("an arm counted backwards", CLAIM, "sum(weight * values[name]", "sum(abs(weight) * values[name]", FILES),
    ("fields that nobody knows are taken", CLAIM, 'extra="forbid"', 'extra="ignore"', FILES),
    ("a report of the moment", VIEWS, '"runs": ids', '"runs": [str(id(ids))]', ROWS),
)
