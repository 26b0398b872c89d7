function claims(data, page) {
  return eachRun(data, page, claimsOfRun);
}

function claimsOfRun(run, page) {
  const systems = ["every paper", ...run.systems], verdicts = ["every verdict", ...run.verdicts];
  const orders = ["as listed", "largest effect first", "widest interval first"];
  const state = { system: run.systems.length > 1 ? 1 : 0, verdict: 0, order: 0, row: null };
  const bar = el("div", { class: "bar sticky" }), forest = el("div"), one = el("div");
  page.append(el("p", { class: "soft" },
    "A dot is a claim's effect, mean over seeds, with its 95% interval, in units of the claim's margin (dashed lines); to the right is the paper's direction. " +
    "Choose a claim by its dot or in the list to see it seed by seed."), el("p", { class: "verdict" }, run.verdict), bar, forest, one);
  const shapes = { domain: ["reproduced", "not reproduced", "inconclusive"], range: ["circle", "square", "diamond"] };
  const colours = { domain: shapes.domain, range: [COLOURS[2], COLOURS[1], COLOURS[6]] };

  function chosen() {
    const width = (r) => (r.low === null ? Infinity : (r.high - r.low) / r.margin);
    const weight = [() => 0, (r) => -r.effect / r.margin, (r) => -width(r)][state.order];
    return run.rows.filter((r) => (state.system === 0 || r.system === systems[state.system]) && (state.verdict === 0 || r.verdict === verdicts[state.verdict]))
      .sort((a, b) => weight(a) - weight(b));
  }

  function render() {
    const rows = chosen();
    const at = Math.max(0, rows.findIndex((r) => r.key === state.row));
    const again = (key) => (v) => { state[key] = v; render(); };
    put(bar, choice("Paper of", systems, state.system, again("system")), choice("Verdict", verdicts, state.verdict, again("verdict")),
      choice("Order", orders, state.order, again("order")),
      rows.length ? choice("Claim", rows.map((r) => `${r.title} (${r.scale})`), at, (v) => { state.row = rows[v].key; render(); }) : null);
    if (!rows.length) { put(forest, el("p", {}, "No claim is of both.")); put(one); return null; }
    return Promise.all([chart(forest, forestOf(rows)), claim(rows[at])]);
  }

  function forestOf(rows) {
    const values = rows.map((r) => ({ key: r.key, claim: r.title, where: r.scale, verdict: r.verdict, rule: r.rule, effect: r.effect, "interval from": r.low, "interval to": r.high,
      at: r.effect / r.margin, low: (r.low ?? r.effect) / r.margin, high: (r.high ?? r.effect) / r.margin, seeds: r.seeds.length }));
    const wide = Math.max(120, Math.min(380, innerWidth * 0.38));
    const titles = Object.fromEntries(rows.map((r) => [r.key, r.title]));
    const y = { field: "key", type: "nominal", sort: rows.map((r) => r.key), title: null, axis: { labelLimit: wide, labelExpr: `${JSON.stringify(titles)}[datum.value]` } };
    const x = (field) => ({ field, type: "quantitative", scale: { type: "symlog", constant: 2 }, title: "effect in margins", axis: { values: [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100] } });
    const tooltip = ["claim", "where", "verdict", "rule", "effect", "interval from", "interval to", "seeds"].map((field) => ({ field }));
    const color = { field: "verdict", type: "nominal", scale: colours, legend: { orient: "top", title: null, columns: narrow() ? 2 : 3 } };
    const line = (datum, dash) => ({ data: { values: [{}] }, mark: { type: "rule", color: shade("--soft"), strokeDash: dash }, encoding: { x: { datum } } });
    return { height: 21 * rows.length, layer: [line(0, [1, 0]), line(1, [4, 3]), line(-1, [4, 3]),
      { data: { values }, mark: { type: "rule", strokeWidth: 2 }, encoding: { y, x: x("low"), x2: { field: "high" }, color } },
      { data: { values }, params: [{ name: "picked", select: { type: "point", fields: ["key"] } }], mark: { type: "point", filled: true, size: 80, opacity: 1, cursor: "pointer" },
        encoding: { y, x: x("at"), color, shape: { field: "verdict", type: "nominal", scale: shapes }, tooltip } } ],
      picked: (key) => { state.row = key; render(); one.scrollIntoView({ block: "nearest" }); } };
  }

  function claim(r) {
    const effects = el("div"), arms = el("div");
    const interval = r.low === null ? "no interval of one seed" : `95% interval ${r.low} to ${r.high}`;
    const facts = [["Paper", r.paper], ["Tried at", r.scale], ["Rule", r.rule], ["Effect", `${r.effect} ${r.unit}, ${interval}`],
      ["Verdict", `${r.verdict}, ${r.tests}` + (r.power === null ? "" : `, power ${r.power} at the margin`)],
      ["Seeds", r.seeds.join(", ") + (r.missing.length ? `; not run: ${r.missing.join(", ")}` : "") + (r.numberless ? `. ${r.numberless}` : "")]];
    put(one, el("h2", {}, r.title), el("p", {}, r.statement), el("ul", { class: "plain" }, facts.map(([k, v]) => el("li", {}, el("span", { class: "soft" }, `${k}: `), v))),
      el("div", { class: "two" }, el("div", {}, el("h3", {}, "The effect, seed by seed"), effects), el("div", {}, el("h3", {}, "What each arm measured"), arms)),
      table(["seed", "effect", ...r.arms.map((a) => a.name)], r.seeds.map((seed, i) => [String(seed), r.effects[i], ...r.arms.map((a) => a.values[i])])),
      el("details", {}, el("summary", {}, "Its runs and how to run them again"), r.commands.map((c) => el("p", {}, el("code", {}, c))),
        table(["seed", ...r.arms.map((a) => a.name)], r.seeds.map((seed, i) => [String(seed), ...r.arms.map((a) => a.runs[i] ?? "a constant")]))));
    return Promise.all([chart(effects, bySeed(r)), chart(arms, byArm(r))]);
  }

  function bySeed(r) {
    const values = r.seeds.map((seed, i) => ({ seed: String(seed), effect: r.effects[i], ...Object.fromEntries(r.arms.map((a) => [a.name, a.values[i]])), run: r.arms.map((a) => a.runs[i]).filter(Boolean).join(", ") }));
    const x = (field) => ({ field, type: "quantitative", title: r.unit });
    const edges = { superiority: [r.margin], noninferiority: [-r.margin], equivalence: [-r.margin, r.margin] }[r.kind];
    const line = (datum, dash) => ({ data: { values: [{}] }, mark: { type: "rule", color: shade("--soft"), strokeDash: dash }, encoding: { x: { datum } } });
    const tooltip = ["seed", "effect", ...r.arms.map((a) => a.name), "run"].map((field) => ({ field: field.replaceAll(".", "\\."), title: field }));
    const mean = { row: "mean", effect: r.effect, low: r.low ?? r.effect, high: r.high ?? r.effect };
    const y = { type: "nominal", sort: null, title: "seed", scale: { domain: [...values.map((v) => v.seed), "mean"] } };
    return { height: 24 * (values.length + 1), layer: [line(0, [1, 0]), ...edges.map((e) => line(e, [4, 3])),
      { data: { values }, mark: { type: "point", filled: true, size: 60, opacity: 1, color: shade("--accent") }, encoding: { y: { field: "seed", ...y }, x: x("effect"), tooltip } },
      { data: { values: [mean] }, mark: { type: "rule", strokeWidth: 3, color: shade("--ink") }, encoding: { y: { field: "row", ...y }, x: x("low"), x2: { field: "high" } } },
      { data: { values: [mean] }, mark: { type: "point", shape: "diamond", filled: true, size: 110, opacity: 1, color: shade("--ink") },
        encoding: { y: { field: "row", ...y }, x: x("effect"), tooltip: ["effect", "low", "high"].map((field) => ({ field })) } } ] };
  }

  function byArm(r) {
    const values = r.arms.flatMap((a) => r.seeds.map((seed, i) => ({ arm: a.name, seed: String(seed), value: a.values[i], metric: a.metric, run: a.runs[i] ?? "a constant" })));
    const x = { field: "arm", type: "nominal", sort: r.arms.map((a) => a.name), title: null, axis: { labelAngle: -20 } };
    const y = { field: "value", type: "quantitative", scale: { zero: false }, title: [...new Set(r.arms.map((a) => a.metric))].filter((m) => m !== "a constant").join(", ").slice(0, 60) };
    const tooltip = ["arm", "seed", "value", "metric", "run"].map((field) => ({ field }));
    return { height: 240, data: { values }, layer: [
      { mark: { type: "line", strokeWidth: 1, color: shade("--soft"), opacity: 0.6 }, encoding: { x, y, detail: { field: "seed" } } },
      { mark: { type: "point", filled: true, size: 50, opacity: 0.8, color: shade("--accent") }, encoding: { x, y, tooltip } } ] };
  }

  return render();
}
