function matrix(data, page) {
  return eachRun(data, page, matrixOfRun);
}

function matrixOfRun(run, page) {
  const shown = Object.keys(run.matrices);
  const state = { values: 0, source: 0 };
  const bar = el("div", { class: "bar sticky" }), heat = el("div"), cellsAsTable = el("details"), dots = el("div", { style: "max-width: 44rem" }), words = el("div");
  page.append(el("p", { class: "soft" },
    "Each row is a task that is asked (the target), each column the prompt of another task that answers it without further training. " +
    "Point at a cell for its numbers; colours are of the chosen measure."),
    el("h2", {}, run.name), el("p", { class: "verdict" }, run.verdict), bar, heat, cellsAsTable, el("h2", {}, "Does an indicator know beforehand?"), dots,
    el("h2", {}, "Words nearest to a prompt"), words);

  function cells() {
    return run.targets.flatMap((target, t) => run.sources.map((source, s) => {
      const row = { target, source, kind: run.kinds[t][s] };
      for (const name of shown) row[name] = run.matrices[name][t][s];
      return row;
    }));
  }

  function render() {
    const name = shown[state.values];
    put(bar, choice("Measure", shown, state.values, (v) => { state.values = v; render(); }),
      choice("Words of", run.sources, state.source, (v) => { state.source = v; render(); }));
    const near = run.words[run.sources[state.source]] || [];
    put(words, near.length ? table(["prompt token", "nearest words, by cosine"], near.map((row, i) => [String(i),
      el("span", {}, row.flatMap(([word, cosine]) => [piece(word), ` ${cosine.toFixed(2)}  `]))]))
      : el("p", {}, "Not kept (look.text=false), or not a tuned prompt."));
    put(cellsAsTable, el("summary", {}, `${name}, as a table`), table(["target", ...run.sources],
      run.targets.map((target, t) => [target, ...run.matrices[name][t].map((v) => (v === null ? "" : v.toFixed(3)))])));
    const values = cells().filter((c) => c[name] !== null && c[name] !== undefined);
    const drawnValues = values.map((c) => c[name]);
    const middle = (Math.min(...drawnValues) + Math.max(...drawnValues)) / 2;
    const tooltip = ["target", "source", "kind"].map((field) => ({ field })).concat(shown.map((field) => ({ field: field.replaceAll(".", "\\."), format: ".3f", title: field })));
    const x = { field: "source", type: "nominal", sort: run.sources, title: "prompt of", axis: { labelAngle: -45, orient: "top" } };
    const y = { field: "target", type: "nominal", sort: run.targets, title: "target" };
    const drawn = [chart(heat, { data: { values }, height: Math.max(90, 26 * run.targets.length), encoding: { x, y }, layer: [
      { mark: "rect", encoding: { color: { field: name, type: "quantitative", scale: { scheme: "blues" }, legend: { title: null, orient: "right" } }, tooltip } },
      ...(run.sources.length <= 12 ? [{ mark: { type: "text", fontSize: 11 }, encoding: { text: { field: name, type: "quantitative", format: ".2f" }, tooltip,
        color: { condition: { test: `datum[${JSON.stringify(name)}] > ${middle}`, value: "#fff" }, value: "#111" } } }] : []) ] })];
    const others = shown.filter((n) => n !== "accuracy" && n !== "relative");
    const indicator = others.includes(name) ? name : others[0];
    if (indicator) drawn.push(chart(dots, { data: { values: cells().filter((c) => c.target !== c.source && c[indicator] !== null && c[indicator] !== undefined && c.relative !== null) }, height: 240,
      mark: { type: "point", filled: true, size: 50, opacity: 0.8 }, encoding: {
        x: { field: indicator, type: "quantitative", scale: { zero: false } }, y: { field: "relative", type: "quantitative", title: "relative performance" },
        color: { field: "kind", type: "nominal", scale: { range: COLOURS }, legend: { orient: "bottom", title: null } }, shape: { field: "kind", type: "nominal" }, tooltip } }));
    else put(dots, el("p", { class: "soft" }, "This study computed no indicator; experiment=prompt/indicators does."));
    return Promise.all(drawn);
  }

  return render();
}
