function experts(data, page) {
  const runs = data.runs;
  // It opens on what stands out most.
  const first = runs.flatMap((run) => run.standing_out.slice(0, 1))[0];
  const layer = first ? first.layer : 0;
  const opened = (run) => run.standing_out.find((row) => row.layer === layer)?.expert ?? null;
  const state = { layer, expert: runs.map(opened), text: 0 };
  const layers = Math.max(...runs.map((r) => r.layers));
  const intro = el("p", { class: "soft" },
    "Each token is underlined in the colour of the expert that scored highest; point at one, or move along a text with the arrow " +
    "keys, to see all chosen experts. Choose an expert by its number, or by a click on a token.");
  const lists = el("div", { class: "columns", style: `--columns: ${runs.length}` }, runs.map((run, r) => standing(run, r)));
  const bar = el("div", { class: "bar sticky" });
  const bodies = runs.map(() => el("section"));
  page.append(intro, lists, bar, el("div", { class: "columns", style: `--columns: ${runs.length}` }, bodies));

  function standing(run, r) {
    const facts = Object.entries(run.facts).map(([k, v]) => el("span", { class: "fact" }, `${k} `, el("b", {}, v)));
    const rows = run.standing_out.slice(0, 12).map((row) => el("li", {},
      el("button", { onclick: () => choose(r, row.layer, row.expert) }, `layer ${row.layer} expert ${row.expert}`), " ",
      row.domains.map((d) => `${percent(d.share)} of ${d.domain} (chance ${percent(d.low)} to ${percent(d.high)})`).join("; "),
      row.words.length ? el("span", {}, "; words ", row.words.flatMap((w) => [piece(w), " "])) : null));
    return el("section", { "aria-label": `what stands out in ${run.name}` }, el("h2", {}, run.name), el("p", {}, facts),
      el("p", { class: "verdict" }, run.verdict), run.sampled[0] < run.sampled[1] ? el("p", { class: "soft sampled" },
        `Words, contexts and companions are of ${run.sampled[0]} of ${run.sampled[1]} held-out windows, the first of each domain; shares are of all.`) : null,
      run.most_words ? el("p", { class: "soft sampled" }, `Of each expert the page keeps the ${run.most_words} surest words, as it has ${run.layers * run.experts} experts.`) : null,
      el("ul", { class: "plain" }, rows),
      run.standing_out.length > 12 ? el("p", { class: "soft small" }, `and ${run.standing_out.length - 12} more`) : null);
  }

  function choose(r, layer, expert) {
    state.layer = layer;
    state.expert[r] = expert;
    render();
  }

  function render() {
    // A run that was made without text has none but a user's own.
    const texts = runs.map((run) => run.texts).sort((a, b) => b.length - a.length)[0];
    put(bar, choice("Layer", [...Array(layers).keys()].map(String), state.layer, (v) => { state.layer = v; render(); }),
      texts.length ? choice("Text", texts.map((t, i) => `${i + 1}. ${t.title}`), state.text, (v) => { state.text = v; render(); }) : null,
      el("button", { onclick: () => { state.expert = runs.map(() => null); render(); } }, "Show all experts"));
    runs.forEach((run, r) => body(run, r));
  }

  function body(run, r) {
    const layer = Math.min(state.layer, run.layers - 1);
    const chosen = state.expert[r];
    const grid = el("div", { class: "grid", role: "group", "aria-label": "experts" }, [...Array(run.experts).keys()].map((e) =>
      el("button", { style: `--chip: ${colour(e)}`, "aria-pressed": String(e === chosen),
        onclick: () => { state.expert[r] = e === chosen ? null : e; render(); } }, e)));
    const parts = [runs.length > 1 ? el("h2", {}, run.name) : null, grid];
    const text = run.texts[Math.min(state.text, run.texts.length - 1)];
    if (text) parts.push(reading(text, r, layer, chosen), note(text, r));
    if (!run.text) parts.push(el("p", { class: "soft" }, "This page was made without any text of the data (look.text=false): only what is counted."));
    const portrait = el("div");
    put(bodies[r], ...parts.filter(Boolean), portrait);
    if (chosen !== null) draw(run, layer, chosen, portrait);
  }

  function note(text, r) {
    const first = runs[0].texts[state.text];
    const said = [text.pieces.length < text.tokens ? `The first ${text.pieces.length} of its ${text.tokens} tokens.` : null,
      r > 0 && first && first.pieces.join("") !== text.pieces.join("") ? `Not the text that ${runs[0].name} read: this one is of ${text.title}.` : null].filter(Boolean);
    return said.length ? el("p", { class: "soft small" }, said.join(" ")) : null;
  }

  function reading(text, r, layer, chosen) {
    const numbers = text.experts[layer], scores = text.scores[layer];
    const tokens = text.pieces.map((piece, i) => {
      const rank = chosen === null ? -1 : numbers[i].indexOf(chosen);
      const kind = chosen === null ? "" : rank === 0 ? " chosen" : rank > 0 ? " second" : " faint";
      return el("span", { class: `token${kind}`, "data-token": i, style: `--chip: ${colour(rank > 0 ? chosen : numbers[i][0])}` }, piece);
    });
    const say = (i) => `${JSON.stringify(text.pieces[i])} in layer ${layer}\n` +
      numbers[i].map((e, k) => `expert ${e}: ${(scores[i][k] / 1000).toFixed(3)}`).join("\n");
    let at = -1;
    const box = el("div", { class: "text", tabindex: 0, dir: "auto", "aria-label": `${text.title}; arrow keys move from token to token` }, tokens);
    const show = (i) => {
      if (at >= 0) tokens[at].classList.remove("current");
      at = i;
      tokens[at].classList.add("current");
      showTip(tokens[at], say(at));
    };
    box.addEventListener("mouseover", (e) => { const i = e.target.dataset?.token; if (i !== undefined) showTip(e.target, say(Number(i))); });
    box.addEventListener("mouseleave", hideTip);
    box.addEventListener("blur", hideTip);
    box.addEventListener("click", (e) => {
      const i = e.target.dataset?.token;
      if (i !== undefined) { hideTip(); state.expert[r] = numbers[Number(i)][0]; render(); }
    });
    box.addEventListener("keydown", (e) => {
      const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[e.key];
      if (move) { e.preventDefault(); show(Math.max(0, Math.min(tokens.length - 1, at + move))); }
      if (e.key === "Enter" && at >= 0) { state.expert[r] = numbers[at][0]; render(); }
    });
    return box;
  }

  function draw(run, layer, expert, root) {
    const portrait = run.portraits[layer][expert];
    const shares = run.domains.map((domain, d) => {
      const mean = run.mean[layer][expert][d], spread = run.spread[layer][expert][d];
      return { domain, share: run.share[layer][expert][d], low: Math.max(0, mean - 1.96 * spread), high: mean + 1.96 * spread,
        kind: run.beyond[layer][expert][d] ? "more than chance gives anywhere" : "not more than chance" };
    });
    const bars = el("div"), load = el("div");
    const words = portrait.words.map((w) => [piece(w.piece), w.taken, Number(w.expected.toFixed(1)),
      Number((w.taken / Math.max(w.expected, 1e-9)).toFixed(1)), w.chance < 0.001 ? "< 0.001" : w.chance.toFixed(3)]);
    const places = portrait.contexts.map((c) => el("li", { class: "context small", dir: "auto" }, c.before, el("b", {}, c.word), c.after,
      el("span", { class: "soft" }, ` (${run.domains[c.domain]}, ${c.score.toFixed(2)})`)));
    const mates = portrait.companions.map((m) => `expert ${m.expert} (${m.together} tokens together, ${m.expected.toFixed(0)} by chance)`);
    put(root, el("h2", {}, `Layer ${layer}, expert ${expert}`), el("div", { class: "two" },
      el("div", {}, el("h3", {}, "How much of each domain it takes"), bars,
        el("p", { class: "soft small" }, "Bars: of the domain's selections. Lines: where 95 of 100 shuffles of the documents' labels lie."),
        run.load.steps.length ? el("h3", {}, "Its load over training") : null, load,
        el("h3", {}, "Goes with"), el("p", {}, mates.length ? mates.join("; ") : "No other expert more often than chance.")),
      el("div", {}, el("h3", {}, "Words that it takes more often than chance"),
        words.length ? table(["word", "taken", "expected", "times", "chance"], words)
          : el("p", {}, run.text ? "None: no word lies beyond the 95% line." : "Not kept (look.text=false)."),
        words.length ? el("p", { class: "soft small" }, "Expected within each domain by its load; chance is corrected for all words, experts and layers.") : null,
        places.length ? el("h3", {}, "In context") : null, el("ul", { class: "plain" }, places))));
    const rows = run.load.steps.map((step, i) => {
      const all = run.load.values[i][layer];
      return { step, load: all[expert], low: Math.min(...all), high: Math.max(...all) };
    });
    return Promise.all([chart(bars, domainBars(shares)), rows.length ? chart(load, loadLines(rows)) : null]);
  }

  function domainBars(values) {
    const y = { field: "domain", type: "nominal", title: null, sort: null };
    const tooltip = [{ field: "domain" }, { field: "share", format: ".3f" }, { field: "low", format: ".3f", title: "chance from" }, { field: "high", format: ".3f", title: "chance to" }];
    return { data: { values }, height: 24 * values.length, encoding: { y, tooltip }, layer: [
      { mark: { type: "bar", height: 13 }, encoding: { x: { field: "share", type: "quantitative", axis: { format: "%", title: "share of the domain's selections" } },
        color: { field: "kind", type: "nominal", scale: { domain: ["more than chance gives anywhere", "not more than chance"], range: [shade("--warm"), shade("--soft")] }, legend: { orient: "bottom", title: null, columns: narrow() ? 1 : 2 } } } },
      { mark: { type: "rule", strokeWidth: 3, color: shade("--ink") }, encoding: { x: { field: "low", type: "quantitative" }, x2: { field: "high" } } } ] };
  }

  function loadLines(values) {
    const x = { field: "step", type: "quantitative", title: "step" };
    return { data: { values }, height: 130, layer: [
      { mark: { type: "area", opacity: 0.25, color: shade("--soft") }, encoding: { x, y: { field: "low", type: "quantitative", title: "load (1 is even)" }, y2: { field: "high" } } },
      { mark: { type: "line", color: shade("--warm") }, encoding: { x, y: { field: "load", type: "quantitative" }, tooltip: [{ field: "step" }, { field: "load" }] } } ] };
  }

  render();
}
