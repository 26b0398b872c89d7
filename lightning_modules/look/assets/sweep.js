function sweep(data, page) {
  return eachRun(data, page, sweepOfRun);
}

function sweepOfRun(run, page) {
  const against = ["setting", ...run.keys, ...run.metrics.map((m) => `metric ${m}`)];
  const state = { metric: 0, against: 0, order: 0 };
  const orders = ["as run", "lowest first", "highest first"];
  const bar = el("div", { class: "bar sticky" }), drawn = el("div"), list = el("div");
  page.append(el("p", { class: "soft" },
    "A dot is a run; point at one for its seed and id. A diamond is the mean of a setting over its seeds, the line through it the mean's 95% interval."),
    el("h2", {}, run.name), el("p", { class: "verdict" }, run.verdict),
    run.metrics.length < run.metrics_in_all ? el("p", { class: "soft" }, `Kept are ${run.metrics.length} of ${run.metrics_in_all} metrics; the runs in MLflow have all.`) : "",
    bar, drawn, list);
  if (run.not_done.length) page.append(el("h2", {}, "Not done"), table(["job", "status", "reason"], run.not_done));

  function ordered(estimates) {
    const places = [...run.settings.keys()].filter((s) => estimates[s]);
    const sign = [0, 1, -1][state.order];
    return places.sort((a, b) => sign * (estimates[a][0] - estimates[b][0]));
  }

  function render() {
    const metric = run.metrics[state.metric], estimates = run.estimates[metric];
    const again = (key) => (v) => { state[key] = v; render(); };
    put(bar, choice("Metric", run.metrics, state.metric, again("metric")), choice("Against", against, state.against, again("against")),
      choice("Order", orders, state.order, again("order")));
    const places = ordered(estimates);
    const rows = places.map((s) => [run.settings[s].name, estimates[s][2] < estimates[s][3] ? `${estimates[s][2]} of ${estimates[s][3]}, others not finite` : estimates[s][2], estimates[s][0], estimates[s][1] ?? "one seed"]);
    const runs = run.runs.filter((r) => r.values[state.metric] !== null);
    put(list, el("h2", {}, `${metric} by setting`), table(["setting", "seeds", "mean", "± 95% interval"], rows),
      el("details", {}, el("summary", {}, `All ${runs.length} runs`),
        table(["setting", "seed", metric, "run"], runs.map((r) => [run.settings[r.setting].name, r.seed, r.values[state.metric], r.run_id || r.folder]))));
    const what = against[state.against];
    const spec = state.against === 0 ? bySetting(metric, places, estimates, runs)
      : what.startsWith("metric ") && state.against > run.keys.length ? byMetric(metric, state.against - 1 - run.keys.length, runs)
        : byKey(metric, what, estimates, runs);
    if (spec) return chart(drawn, spec);
    put(drawn, el("p", {}, `No run has both ${metric} and ${what.replace("metric ", "")}.`));
    return null;
  }

  const told = (r) => ({ setting: run.settings[r.setting].name, seed: r.seed, run: r.run_id || r.folder, value: r.values[state.metric] });
  const hover = (metric) => [{ field: "setting" }, { field: "seed" }, { field: "value", title: metric }, { field: "run" }];
  const means = (metric) => [{ field: "setting" }, { field: "mean", title: `mean of ${metric}` }, { field: "half", title: "± 95%" }, { field: "seeds" }];
  const mean = (s, [middle, half, seeds]) => ({ setting: run.settings[s].name, mean: middle, half: half ?? "one seed", seeds,
    low: middle - (half ?? 0), high: middle + (half ?? 0) });

  function layers(metric, axes, value, runs, averages) {
    // value: "x" or "y", the axis on which the metric lies.
    const field = (name) => ({ [value]: { field: name, type: "quantitative", scale: { zero: false }, title: metric } });
    const look = axes.color ? {} : { color: shade("--accent") };
    // Of the theme's ink where no colour tells settings apart. Runs lie on top: none is hidden by its mean.
    const ink = axes.color ? {} : { color: shade("--ink") };
    return { layer: [
      { data: { values: averages }, mark: { type: "rule", strokeWidth: 2, ...ink }, encoding: { ...withoutShape(axes), ...field("low"), [`${value}2`]: { field: "high" } } },
      { data: { values: averages }, mark: { type: "point", shape: "diamond", filled: false, strokeWidth: 2, size: 170, opacity: 1, ...ink },
        encoding: { ...withoutShape(axes), ...field("mean"), tooltip: means(metric) } },
      { data: { values: runs }, mark: { type: "point", filled: true, size: 40, opacity: 0.8, ...look }, encoding: { ...axes, ...field("value"), tooltip: hover(metric) } } ] };
  }

  function withoutShape(axes) {
    const { shape, ...rest } = axes;
    return rest;
  }

  function bySetting(metric, places, estimates, runs) {
    const wide = Math.max(110, Math.min(420, innerWidth * 0.4));
    // On a phone a line for each key, or settings would be cut before what sets them apart.
    const lines = narrow() ? Math.max(1, ...places.map((s) => run.settings[s].name.split(" ").length)) : 1;
    const axis = { labelLimit: wide, ...(lines > 1 ? { labelExpr: "split(datum.label, ' ')", labelLineHeight: 12 } : {}) };
    const y = { field: "setting", type: "nominal", sort: places.map((s) => run.settings[s].name), title: null, axis };
    return { height: Math.max(60, (14 + 12 * lines) * places.length), ...layers(metric, { y }, "x", runs.map(told), places.map((s) => mean(s, estimates[s]))) };
  }

  function byKey(metric, key, estimates, runs) {
    const at = (s) => run.settings[s].values[key];
    const places = [...run.settings.keys()].filter((s) => at(s) !== undefined && estimates[s]);
    if (!places.length) return null;
    const numbers = places.map(at), amounts = numbers.every((v) => typeof v === "number");
    const log = amounts && Math.min(...numbers) > 0 && Math.max(...numbers) >= 50 * Math.min(...numbers);
    const rest = (s) => run.keys.filter((k) => k !== key && run.settings[s].values[k] !== undefined).map((k) => `${k}=${run.settings[s].values[k]}`).join(" ");
    const placed = (row, s) => ({ ...row, at: at(s), others: rest(s) || "all" });
    const x = { field: "at", type: amounts ? "quantitative" : "nominal", title: key, ...(amounts ? { scale: log ? { type: "log" } : { zero: false } } : { axis: { labelAngle: -30 } }) };
    // Named for both colour and shape, or each would have a legend of its own.
    const domain = [...new Set(places.map((s) => rest(s) || "all"))];
    const groups = domain.length > 1;
    const axes = groups ? { x, color: { field: "others", type: "nominal", scale: { domain, range: COLOURS }, legend: { orient: "bottom", title: null, columns: narrow() ? 1 : 3 } },
      shape: { field: "others", type: "nominal", scale: { domain } } } : { x };
    return { height: 320, ...layers(metric, axes, "y", runs.filter((r) => places.includes(r.setting)).map((r) => placed(told(r), r.setting)),
      places.map((s) => placed(mean(s, estimates[s]), s))) };
  }

  function byMetric(metric, other, runs) {
    const values = runs.filter((r) => r.values[other] !== null).map((r) => ({ ...told(r), other: r.values[other] }));
    if (!values.length) return null;
    const few = run.settings.length <= 8;
    return { data: { values }, height: 320, mark: { type: "point", filled: true, size: 55, opacity: 0.8, ...(few ? {} : { color: shade("--accent") }) }, encoding: {
      x: { field: "other", type: "quantitative", scale: { zero: false }, title: run.metrics[other] },
      y: { field: "value", type: "quantitative", scale: { zero: false }, title: metric },
      ...(few ? { color: { field: "setting", type: "nominal", scale: { range: COLOURS }, legend: { orient: "bottom", title: null, columns: 1 } }, shape: { field: "setting", type: "nominal" } } : {}),
      tooltip: [...hover(metric), { field: "other", title: run.metrics[other] }] } };
  }

  return render();
}
