function pairs(data, page) {
  return eachRun(data, page, pairsOfRun);
}

function pairsOfRun(run, page) {
  const base = run.models[0], categories = ["all contrasts", ...new Set(run.pairs.map((p) => p.category))];
  const state = { model: run.models.length - 1, category: 0, verdict: 0, order: 0, count: 12 };
  const column = Object.fromEntries(run.scores.map((name, i) => [name, i]));
  const both = "ll" in column;
  const margin = (row) => Math.min(row[column.ww] - row[column.wl], both ? row[column.ll] - row[column.lw] : Infinity);
  const verdicts = ["right and wrong", "right after", "wrong after", "set right by training", "broken by training"];
  const orders = ["what changed most", "worst first", "best first"];
  const bar = el("div", { class: "bar sticky" }), list = el("div"), change = el("div", { style: "max-width: 44rem" }), said = el("p", { class: "verdict" });
  page.append(el("p", { class: "soft" },
    (both ? "Two pictures that differ in one thing, with a response to each. A pair is right where each response is likelier under its own picture " +
      "than the other response is. " : "A picture with a chosen and a rejected response. A pair is right where the chosen one is likelier. ") + "Scores are log-probabilities of a whole response: first the picture (w chosen, l rejected, n none), then the response."),
    el("h2", {}, run.name), said, change, bar, list);

  function chosen() {
    const after = run.models[state.model], right = (m, i) => run.right[m.name][i];
    const keep = (i) => [true, right(after, i), !right(after, i), right(after, i) && !right(base, i), !right(after, i) && right(base, i)][state.verdict];
    const rows = run.pairs.map((pair, i) => ({ pair, i, before: base.values[i], after: after.values[i] }))
      .filter(({ pair, i }) => (state.category === 0 || pair.category === categories[state.category]) && keep(i));
    const weight = [(r) => -Math.abs(margin(r.after) - margin(r.before)), (r) => margin(r.after), (r) => -margin(r.after)][state.order];
    return rows.sort((a, b) => weight(a) - weight(b));
  }

  function render() {
    const after = run.models[state.model];
    const share = (m) => percent(run.right[m.name].filter(Boolean).length / run.pairs.length);
    said.textContent = `${base.name}: ${share(base)} of ${run.pairs.length} pairs right` + (after === base ? "." : `; ${after.name}: ${share(after)}.`) +
      (run.sampled[0] < run.sampled[1] ? ` Shown are ${run.sampled[0]} of ${run.sampled[1]} pairs, evenly spaced.` : "");
    const again = (key) => (v) => { state[key] = v; state.count = 12; render(); };
    put(bar, choice("After", run.models.map((m) => m.name), state.model, again("model")),
      choice("Contrast", categories, state.category, again("category")), choice("Verdict", verdicts, state.verdict, again("verdict")),
      choice("Order", orders, state.order, again("order")));
    const rows = chosen();
    put(list, el("p", { class: "soft" }, `${rows.length} pairs`), rows.slice(0, state.count).map(card),
      rows.length > state.count ? el("button", { onclick: () => { state.count += 24; render(); } }, "Show more") : null);
    if (rows.length) return chart(change, changes(rows));
    put(change, el("p", {}, "No pair is of all that is chosen."));
    return null;
  }

  function card({ pair, i, before, after }) {
    const names = ["chosen", "rejected"];
    const verdict = (m) => `${m.name}: ${run.right[m.name][i] ? "right" : "wrong"}`;
    const last = run.models[state.model];
    return el("article", {}, el("h3", {}, `Pair ${i + 1}, ${pair.category}. ${verdict(base)}` + (last === base ? "" : `; ${verdict(last)}`)),
      pair.instruction ? el("p", { dir: "auto" }, pair.instruction) : null,
      el("div", { class: "two" }, pair.images ? el("div", { class: "bar" }, pair.images.map((source, k) => el("figure", { style: "margin: 0" },
        el("img", { class: "pixel", src: source, alt: `${names[k]} picture` }),
        el("figcaption", { class: "small", dir: "auto", style: "max-width: 14rem" }, (both ? [k] : [0, 1]).map((n) => el("div", {}, `${names[n]}: ${pair.responses[n]}`)))))) : null,
        el("div", {}, table(["score", base.name, last.name, "change"], run.scores.map((s, k) =>
          [el("code", {}, s), before[k], after[k], Number((after[k] - before[k]).toFixed(3))])))));
  }

  function changes(rows) {
    const values = rows.map((r) => ({ pair: r.i + 1, contrast: r.pair.category, before: margin(r.before), after: margin(r.after) }));
    const rule = { mark: { type: "rule", color: shade("--line") }, data: { values: [{}] } };
    return { data: { values }, height: 260, layer: [
      { ...rule, encoding: { x: { datum: 0 } } }, { ...rule, encoding: { y: { datum: 0 } } },
      { mark: { type: "point", filled: true, opacity: 0.75, size: 45 }, encoding: {
        x: { field: "before", type: "quantitative", title: `margin before (${base.name})` },
        y: { field: "after", type: "quantitative", title: `margin after (${run.models[state.model].name})` },
        color: { field: "contrast", type: "nominal", scale: { range: COLOURS }, legend: { orient: "bottom", title: null, columns: narrow() ? 3 : 6 } },
        shape: { field: "contrast", type: "nominal" }, tooltip: ["pair", "contrast", { field: "before", format: ".2f" }, { field: "after", format: ".2f" }].map((f) => (typeof f === "string" ? { field: f } : f)) } } ] };
  }

  return render();
}
