function neurons(data, page) {
  page.append(el("p", { class: "soft" },
    "A neuron tells a task's classes apart where its activation lies above its mean over training texts for one class and below for the other. " +
    "Predictivity is how often that is right on validation texts, at the neuron's best prompt token, the mean over prompts; all else of a neuron is of the first prompt and test texts."));
  return eachRun(data, page, neuronsOfRun);
}

function neuronsOfRun(run, page) {
  const state = { task: run.standing_out[0].task, neuron: 0 };
  // A study without p-values has no columns for them.
  const judged = run.standing_out[0].family !== null, p = (value) => Number(value.toPrecision(2));
  const bar = el("div", { class: "bar sticky" }), body = el("div");
  page.append(el("h2", {}, run.name), el("p", { class: "verdict" }, run.verdict),
    table(["task", "skill", "best neuron", "predictivity", ...(judged ? ["p, whole model", "neurons beyond chance"] : [])], run.standing_out.map((row) => [
      el("button", { onclick: () => open(row.task) }, run.tasks[row.task].task), el("span", { class: "keep" }, run.tasks[row.task].skill), el("code", {}, row.neuron),
      Number(row.predictivity.toFixed(3)), ...(judged ? [p(row.family), row.passing] : [])])), bar, body);

  function open(task, neuron = 0) { state.task = task; state.neuron = neuron; return render(); }

  function render() {
    const task = run.tasks[state.task], top = task.top[state.neuron], portrait = task.portraits[state.neuron];
    put(bar, choice("Task", run.tasks.map((t) => t.task), state.task, (v) => open(v)),
      choice("Neuron", task.top.map((t) => t.neuron), state.neuron, (v) => open(state.task, v)));
    const bars = el("div"), others = el("div"), noise = el("div", { class: "two" });
    const facts = [["predictivity", top.predictivity.toFixed(3)], ["prompt token", portrait.token], ["right on test", portrait.test === null ? null : percent(portrait.test)]];
    put(body, el("h2", {}, `${task.task}: neuron ${top.neuron}, ${top.rank} of ${task.neurons}`),
      el("p", {}, facts.filter(([, v]) => v !== null).map(([k, v]) => el("span", { class: "fact" }, `${k} `, el("b", {}, v)))),
      el("div", { class: "two" },
        el("div", {}, el("h3", {}, "Its activation, by class"), bars, el("p", { class: "soft small" }, "Line: its mean over training texts."),
          run.text ? [texts("Highest with", portrait.highest, task), texts("Lowest with", portrait.lowest, task)]
            : el("p", { class: "soft" }, "This page was made without any text (look.text=false): only what is counted.")),
        el("div", {}, el("h3", {}, "Most predictive neurons"),
          table(["neuron", "predictivity", ...(judged ? ["p, its own", "p, whole model"] : [])], task.top.map((t, k) => [
            el("button", { "aria-pressed": String(k === state.neuron), onclick: () => open(state.task, k) }, t.neuron), Number(t.predictivity.toFixed(3)), ...(judged ? [p(t.own), p(t.family)] : [])])),
          task.null === null ? null : el("p", { class: "soft small" }, `Under shuffled labels the best of all neurons reaches ${task.null.toFixed(3)} on average.`),
          run.text ? [words("Words that drive it up", portrait.drive_up), words("Words that drive it down", portrait.drive_down)] : null)),
      run.tasks.length > 1 ? [el("h3", {}, "The same neuron in the other tasks"), others] : null,
      after(task, noise));
    const drawn = [chart(bars, histogram(task, portrait))];
    if (run.tasks.length > 1) drawn.push(chart(others, elsewhere(task)));
    const done = run.done[task.task];
    if (done && done.table === "perturbation") drawn.push(...curves(done, noise));
    return Promise.all(drawn);
  }

  function texts(title, rows, task) {
    return el("div", {}, el("h3", {}, title), el("ul", { class: "plain" }, rows.map((row) => el("li", { class: "context small" },
      el("span", { class: "soft" }, `${row.value.toPrecision(3)} `), el("b", {}, task.classes[row.class]), " ", el("span", { dir: "auto" }, row.text)))));
  }

  function words(title, rows) {
    return el("div", {}, el("h3", {}, title), rows.length ? table(["word", "texts", "above the mean", "chance"], rows.map((w) =>
      [piece(w.word), w.texts, w.above, w.chance < 0.001 ? "< 0.001" : w.chance.toFixed(3)])) : el("p", {}, "None beyond chance."));
  }

  function after(task, noise) {
    const done = run.done[task.task];
    if (!done) return null;
    const short = (v) => (typeof v === "number" ? Number(v.toFixed(3)) : v);
    const rows = table(done.columns, done.rows.map((row) => row.map(short)));
    return [el("h3", {}, done.title), noise, done.rows.length > 12 ? el("details", {}, el("summary", {}, "As a table"), rows) : rows];
  }

  const named = (task) => ({ field: "class", type: "nominal", scale: { domain: task.classes, range: COLOURS }, legend: { orient: "bottom", title: null } });

  function histogram(task, portrait) {
    const edges = portrait.edges;
    const values = portrait.counts.flatMap((row, c) => row.map((texts, i) => ({ class: task.classes[c], from: edges[i], to: edges[i + 1], texts })));
    const tooltip = [{ field: "class" }, { field: "texts" }, { field: "from", format: ".3g" }, { field: "to", format: ".3g" }];
    return { data: { values }, height: 200, layer: [
      { mark: { type: "bar", opacity: 0.6 }, encoding: { x: { field: "from", type: "quantitative", bin: { binned: true }, title: "activation" }, x2: { field: "to" },
        y: { field: "texts", type: "quantitative", stack: null, title: "test texts" }, color: named(task), tooltip } },
      { data: { values: [{ mean: portrait.baseline }] }, mark: { type: "rule", strokeWidth: 2, strokeDash: [4, 3], color: shade("--ink") }, encoding: { x: { field: "mean", type: "quantitative" } } } ] };
  }

  function elsewhere(task) {
    const found = task.elsewhere;
    const values = run.tasks.map((t, i) => ({ task: t.task, skill: t.skill, predictivity: found.predictivity[state.neuron][i], rank: `${found.rank[state.neuron][i]} of ${t.neurons}`,
      kind: t === task ? "this task" : t.skill === task.skill ? "of the same skill" : "of another skill" }));
    const tooltip = ["task", "skill", "predictivity", "rank"].map((field) => ({ field }));
    return { data: { values }, height: 20 * values.length, encoding: { y: { field: "task", type: "nominal", title: null, sort: null }, tooltip },
      layer: [{ mark: { type: "point", filled: true, size: 70 }, encoding: { x: { field: "predictivity", type: "quantitative", scale: { zero: false } },
        color: { field: "kind", type: "nominal", scale: { domain: ["this task", "of the same skill", "of another skill"], range: COLOURS }, legend: { orient: "bottom", title: null, columns: 2 } },
        shape: { field: "kind", type: "nominal", scale: { domain: ["this task", "of the same skill", "of another skill"] } } } }] };
  }

  // A chart for each kind of noise, on one scale.
  function curves(done, root) {
    const values = done.rows.map((row) => Object.fromEntries(done.columns.map((name, i) => [name, row[i]])));
    const range = [Math.min(...values.map((v) => v.accuracy)), Math.max(...values.map((v) => v.accuracy))];
    const tooltip = done.columns.map((field) => (field === "accuracy" ? { field, format: ".3f" } : { field }));
    const color = { field: "neurons", type: "nominal", scale: { domain: [...new Set(values.map((v) => v.neurons))], range: COLOURS }, legend: { orient: "bottom", title: null, columns: 1 } };
    return [...new Set(values.map((v) => v.kind))].map((kind) => {
      const box = el("div");
      root.append(el("div", {}, el("p", { class: "soft small" }, kind), box));
      return chart(box, { data: { values: values.filter((v) => v.kind === kind) }, height: 180, layer: [{ mark: { type: "line", point: { size: 45 } }, encoding: {
        x: { field: "share", type: "quantitative", title: "share of each layer's neurons", axis: { format: "~%" } },
        y: { field: "accuracy", type: "quantitative", scale: { domain: range, nice: true }, title: "test accuracy" }, color, tooltip } }] });
    });
  }

  return render();
}
