// Okabe and Ito's colours stay apart for colour-blind readers, on dark paper lighter ones of the same hues; further parts
// take them again, with their number beside.
const ON_LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A", "#B8A800"];
const ON_DARK = ["#56B4E9", "#F0883E", "#2BC49A", "#E59BC9", "#F2B92D", "#3F8FD2", "#B5B8BE", "#DAD35A"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let COLOURS = dark.matches ? ON_DARK : ON_LIGHT;
// A phone has room for fewer entries of a legend beside each other.
const narrow = () => innerWidth < 700;

async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

// All text goes through here, so that nothing of a data set is ever read as HTML.
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return node;
}

function colour(part) { return COLOURS[part % COLOURS.length]; }
// A token by itself: what has no ink is given some, and nothing breaks its line.
function piece(text) {
  const shown = text.trim() ? text : text.replaceAll(" ", "\u2423");
  return el("span", { class: "piece", dir: "auto" }, shown.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5"));
}
function percent(x, digits = 1) { return `${(100 * x).toFixed(digits)}%`; }
function put(node, ...children) { node.replaceChildren(...children.flat().filter(Boolean)); return node; }

function choice(label, options, value, change) {
  const select = el("select", { "aria-label": label, onchange: (e) => change(Number(e.target.value)) },
    options.map((text, i) => el("option", { value: i, selected: i === value }, text)));
  return el("label", {}, `${label} `, select);
}

function table(columns, rows) {
  const numbers = columns.map((_, i) => rows.length > 0 && typeof rows[0][i] === "number");
  const cell = (tag, value, i) => el(tag, { class: numbers[i] ? "number" : null }, value);
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, columns.map((c, i) => cell("th", c, i)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((v, i) => cell("td", v, i)))))));
}

const tip = document.getElementById("tip");
function showTip(target, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = target.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${box.bottom + 6 + scrollY}px`;
}
function hideTip() { tip.hidden = true; }
addEventListener("keydown", (e) => { if (e.key === "Escape") hideTip(); });

function shade(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
// picked: called with the `key` of a mark that is clicked, where the spec has a selection of that name.
async function chart(node, { picked, ...spec }) {
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map(shade);
  const config = {
    background: null, font: "system-ui, DejaVu Sans, sans-serif", view: { stroke: null },
    axis: { labelColor: ink, titleColor: soft, gridColor: line, domainColor: line, tickColor: line, labelLimit: 140, labelSeparation: 6 },
    legend: { labelColor: ink, titleColor: soft, labelLimit: 0 }, title: { color: ink }, text: { color: ink },
  };
  node.classList.add("chart");
  // Names become strings in Vega's expressions: its parser takes two characters for the end of a line, and Vega-Lite escapes
  // no backslash of a title.
  spec = JSON.parse(JSON.stringify(spec).replace(/[\u2028\u2029]/g, " "),
    (key, value) => (key === "title" && typeof value === "string" ? value.replaceAll("\\", "\u29f5") : value));
  const made = await window.vegaEmbed(node, { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", autosize: { type: "fit-x", contains: "padding" }, config, ...spec }, { actions: false, renderer: "svg" });
  if (picked) made.view.addSignalListener("picked", (_, value) => { if (value.key) picked(value.key[0]); });
  return node;
}

// A section for each run, below each other.
function eachRun(data, page, draw) {
  return Promise.all(data.runs.map((run) => {
    const section = el("section", { "aria-label": run.name });
    page.append(section);
    return draw(run, section);
  }));
}

async function start(draw) {
  const page = document.getElementById("page");
  if (typeof DecompressionStream === "undefined") {
    put(page, el("p", {}, "This browser cannot unpack the page; one of 2023 or later can."));
    return;
  }
  const code = document.createElement("script");
  code.type = "module";
  code.textContent = `${await unpack("charts")}\n;window.dispatchEvent(new Event("charts"));`;
  const ready = new Promise((done) => addEventListener("charts", done, { once: true }));
  document.head.append(code);
  await ready;
  const data = JSON.parse(await unpack("data"));
  put(page, el("h1", {}, data.title));
  await draw(data, page);
  dark.addEventListener("change", () => { COLOURS = dark.matches ? ON_DARK : ON_LIGHT; put(page, el("h1", {}, data.title)); draw(data, page); });
  document.documentElement.dataset.ready = "true";
}
