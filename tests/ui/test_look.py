"""The page of a run in a headless browser, opened from its file: `make test-ui`."""

import json

import pytest

from lightning_modules.claims import look as claims
from lightning_modules.claims.report import RESULTS
from lightning_modules.claims.table import load_all
from lightning_modules.look import page as pages
from lightning_modules.moe import look as experts
from lightning_modules.runtime import sweep_look
from lightning_modules.skill_neurons import look as neurons
from lightning_modules.svco import look as svco
from lightning_modules.transfer import look as transfer
from tests.moe.test_look import EVIL, drawn, large, prefers_maths, routed
from tests.runtime.test_sweep_look import drawn as sweep_of_six
from tests.skill_neurons.test_look import made as neurons_of_tasks
from tests.svco.test_look import drawn as pairs_of_svco
from tests.transfer.test_look import drawn as matrix_of_transfer
from tests.ui.browser import shot

TITLES = {look.KIND: look.TITLE for look in (experts, neurons, svco, transfer, sweep_look, claims)}


@pytest.fixture(scope="module")
def runs():
    held, counts_NLE, domain_N = routed(taste=prefers_maths)
    held.tokens_NS[0, :2] = held.tokens_NS.new_tensor([0, 1])
    loads = [
        (step, counts_NLE.double().mean(0) / counts_NLE.double().mean(0).sum(-1, keepdim=True)) for step in (0, 10)
    ]
    return [drawn(held, counts_NLE, domain_N, loads=loads), {**drawn(*routed()), "name": "other"}]


@pytest.fixture(scope="module")
def table():
    return claims.claims_page(claims.of_file(RESULTS / "claims.json", load_all()))


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page of runs at a width; fails on any error of the console and any request but the file's own."""
    wrong, contexts = [], []

    def open_(runs, *, kind="experts", width=1440, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        path = pages.write(tmp_path / "look.html", kind=kind, title=TITLES[kind], data={"runs": runs})
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if request.url != f"file://{path}" else None)
        page.goto(f"file://{path}")
        page.wait_for_selector("[data-ready]", state="attached", timeout=30_000)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def test_a_token_that_is_pointed_at_shows_the_scores_of_the_table(opened, runs):
    page = opened(runs[:1])
    text, layer = runs[0]["texts"][0], 1
    for token in (3, 7):
        page.locator(f"[data-token='{token}']").hover()
        said = page.locator("#tip").inner_text()
        for expert, score in zip(text["experts"][layer][token], text["scores"][layer][token], strict=True):
            assert f"expert {expert}: {score / 1000:.3f}" in said


def test_it_opens_on_what_stands_out_and_layer_and_expert_can_be_chosen(opened, runs):
    page = opened(runs[:1])
    assert page.locator("h2", has_text="Layer 1, expert 5").count() == 1
    page.get_by_label("Layer").select_option("0")
    page.get_by_role("button", name="2", exact=True).click()
    assert page.locator("h2", has_text="Layer 0, expert 2").count() == 1
    chosen = page.locator(".token.chosen").first.get_attribute("data-token")
    assert runs[0]["texts"][0]["experts"][0][int(chosen)][0] == 2
    page.locator("section ul button").first.click()
    page.wait_for_timeout(500)
    assert page.locator("svg .mark-rect path").count() == len(runs[0]["domains"])
    shot(page, "look_experts")


def test_the_keyboard_does(opened, runs):
    page = opened(runs[:1])
    page.locator(".text").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expert = runs[0]["texts"][0]["experts"][1][2][0]
    assert f"expert {expert}: " in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("h2", has_text=f"Layer 1, expert {expert}").count() == 1


def test_text_of_the_data_is_never_run(opened, runs):
    page = opened(runs[:1])
    assert page.locator("[data-token='0']").inner_text() == EVIL
    assert page.title() == "What each expert does"


def test_a_word_without_ink_is_seen(opened, runs):
    words = [{"piece": p, "token": 9, "taken": 9, "expected": 1.0, "chance": 0.0} for p in ("\n  ", "    ", " w\t")]
    run = {**runs[0], "portraits": [[{**e, "words": words} for e in layer] for layer in runs[0]["portraits"]]}
    page = opened([run])
    assert page.locator("td .piece").all_inner_texts() == ["⏎␣␣", "␣␣␣␣", " w⇥"]


def test_a_large_model_opens_and_says_that_it_sampled(opened):
    """256 experts in 60 layers, right-to-left words, halves of characters."""
    found = large()
    page = opened([found], width=390)
    windows, words = page.locator(".sampled").all_inner_texts()
    assert "6 of 12 held-out windows" in windows
    assert f"the {found['most_words']} surest words" in words
    page.get_by_label("Layer").select_option("59")
    page.get_by_role("button", name="255", exact=True).click()
    assert page.locator("h2", has_text="Layer 59, expert 255").count() == 1
    text = found["texts"][0]
    page.locator("[data-token='3']").hover()
    said = page.locator("#tip").inner_text()
    for expert, score in zip(text["experts"][59][3], text["scores"][59][3], strict=True):
        assert f"expert {expert}: {score / 1000:.3f}" in said
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_two_runs_side_by_side(opened, runs):
    page = opened(runs)
    assert page.locator(".verdict").all_inner_texts() == [run["verdict"] for run in runs]
    assert page.locator(".text").count() == 2
    first, second = (box.bounding_box() for box in page.locator(".text").all())
    assert first["y"] == second["y"]
    shot(page, "look_two_runs")


def test_without_text_only_what_is_counted_is_left(opened):
    page = opened([drawn(*routed(taste=prefers_maths), text=False)])
    assert page.locator(".token").count() == 0
    assert page.locator("h2", has_text="Layer 1, expert 5").count() == 1


def test_pairs_are_sorted_and_filtered(opened):
    found, _, _ = pairs_of_svco()
    page = opened([found], kind="pairs")
    page.get_by_label("Verdict").select_option(label="wrong after")
    page.get_by_label("Order").select_option(label="worst first")
    wrong = [i for i, right in enumerate(found["right"]["svco"]) if not right]
    assert page.locator("article").count() == len(wrong)
    ww, wl, lw, ll = (found["scores"].index(s) for s in ("ww", "wl", "lw", "ll"))
    values = found["models"][1]["values"]
    worst = min(wrong, key=lambda i: min(values[i][ww] - values[i][wl], values[i][ll] - values[i][lw]))
    assert page.locator("article h3").first.inner_text().startswith(f"Pair {worst + 1}, ")
    assert page.locator("article img").first.evaluate("e => e.naturalWidth") == 48
    shot(page, "look_pairs")


def test_a_picture_with_two_responses_shows_both(opened):
    found, _, _ = pairs_of_svco()
    keep = [found["scores"].index(s) for s in ("ww", "wl", "nw")]
    found["scores"] = ["ww", "wl", "nw"]
    for model in found["models"]:
        model["values"] = [[row[k] for k in keep] for row in model["values"]]
    for pair in found["pairs"]:
        pair["images"] = pair["images"][:1]
    page = opened([found], kind="pairs")
    first = page.locator("article").first
    assert first.locator("img").count() == 1
    number = int(first.locator("h3").inner_text().split()[1].rstrip(",")) - 1
    assert all(response in first.locator("figcaption").inner_text() for response in found["pairs"][number]["responses"])
    page.wait_for_timeout(500)
    assert page.locator("svg .mark-symbol path").count() >= len(found["pairs"])


def test_a_cell_of_the_matrix_shows_its_numbers(opened):
    page = opened([matrix_of_transfer()], kind="matrix")
    page.wait_for_timeout(500)
    page.locator("svg .mark-rect path").nth(1).hover(force=True)
    page.wait_for_timeout(300)
    assert "0.800" in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator(".piece").all_inner_texts() == [" great", "<b>bad"]
    shot(page, "look_matrix")


def point_at(page, mark):
    """Move the mouse over a mark of a chart and read what is said of it."""
    page.wait_for_timeout(400)
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.wait_for_timeout(300)
    return page.locator("#vg-tooltip-element").inner_text()


def test_a_dot_of_a_sweep_tells_its_run_and_its_mean_the_table(opened):
    found = sweep_of_six()
    page = opened([found], kind="sweep")
    page.wait_for_timeout(500)
    shot(page, "look_sweep")
    means, dots = (page.locator("svg .mark-symbol").nth(i).locator("path") for i in (0, 1))
    assert (means.count(), dots.count()) == (len(found["settings"]), len(found["runs"]))
    said = point_at(page, dots.nth(4))
    run = found["runs"][4]
    for told in (found["settings"][run["setting"]]["name"], run["seed"], run["run_id"], str(run["values"][0])):
        assert told in said
    mean, half, seeds = found["estimates"]["test/ppl"][2]
    cells = page.locator("tbody").first.locator("tr").nth(2).locator("td").all_inner_texts()
    assert cells == [found["settings"][2]["name"], str(seeds), str(mean), str(half)]
    assert "broken" not in page.title()


def test_a_sweep_is_seen_against_a_key_and_another_metric(opened):
    found = sweep_of_six()
    page = opened([found], kind="sweep")
    page.get_by_label("Order").select_option(label="lowest first")
    first = page.locator("tbody").first.locator("td").first.inner_text()
    assert first == "balance=global optimizer.lr=0.001"
    page.get_by_label("Against").select_option(label="optimizer.lr")
    page.wait_for_timeout(500)
    assert page.locator("svg .mark-text text", has_text="balance=micro").count() == 1, (
        "the rest of a setting is its colour"
    )
    said = point_at(page, page.locator("svg .mark-symbol").nth(1).locator("path").first)
    assert found["runs"][0]["run_id"] in said
    page.get_by_label("Metric").select_option(label="test/top_share")
    page.get_by_label("Against").select_option(label="metric test/ppl")
    page.wait_for_timeout(500)
    assert page.locator("svg g.mark-symbol[aria-roledescription='symbol mark container'] path").count() >= 17


def test_a_claim_is_seen_seed_by_seed(opened, table):
    page = opened([table], kind="claims")
    page.get_by_label("Paper of").select_option(label="moe")
    rows = [row for row in table["rows"] if row["system"] == "moe"]
    row = next(r for r in rows if r["title"] == "global specialises")
    page.get_by_label("Claim", exact=True).select_option(index=rows.index(row))
    page.wait_for_timeout(500)
    shot(page, "look_claims")
    said = page.locator("ul.plain").first.inner_text()
    assert f"{row['effect']} {row['unit']}, 95% interval {row['low']} to {row['high']}" in said
    cells = page.locator("tbody").first.locator("tr").first.locator("td").all_inner_texts()
    assert cells == [str(row["seeds"][0]), str(row["effects"][0]), *(str(a["values"][0]) for a in row["arms"])]
    other = page.locator("svg .mark-symbol").first.locator("path").nth(3)
    assert str(rows[3]["effect"]) in point_at(page, other)
    other.click(force=True)
    page.wait_for_timeout(500)
    assert page.locator("h2").first.inner_text() == rows[3]["title"]


def test_a_neuron_shows_the_numbers_of_its_tables(opened):
    found, _ = neurons_of_tasks()
    page = opened([found], kind="neurons")
    assert page.locator(".verdict").inner_text() == found["verdict"]
    first = page.locator("table").first.locator("tbody tr").first
    assert first.locator("td").all_inner_texts() == ["second", "mood", "L1.N7", "1", "0.005", "1"]
    assert page.locator("h2", has_text="second: neuron L1.N7, 1 of 26").count() == 1
    page.wait_for_timeout(500)
    shot(page, "look_neurons")
    # A bar for each bin and class.
    portrait = found["tasks"][1]["portraits"][0]
    drawn = page.locator("svg .mark-rect path").count()
    assert drawn == sum(len(row) for row in portrait["counts"])
    page.locator("svg .mark-rect path").nth(1).hover(force=True)
    page.wait_for_timeout(300)
    assert f"{portrait['counts'][0][1]}" in page.locator("#vg-tooltip-element").inner_text()
    page.mouse.move(0, 0)
    page.get_by_role("button", name="first", exact=True).click()
    page.get_by_label("Neuron", exact=True).select_option(index=2)
    chosen = found["tasks"][0]["top"][2]
    assert page.locator("h2", has_text=f"first: neuron {chosen['neuron']}, 3 of 26").count() == 1
    assert f"right on test {100 * found['tasks'][0]['portraits'][2]['test']:.1f}%" in page.locator("main").inner_text()
    shown = page.locator("main table").last.locator("tbody tr").last.locator("td").all_inner_texts()
    assert shown == ["zero", "random neurons", "0.2", "0.695"]


def test_neurons_without_text_and_text_that_is_markup(opened):
    found, _ = neurons_of_tasks()
    portrait = found["tasks"][1]["portraits"][0]
    portrait["highest"][0]["text"] = EVIL
    page = opened([found], kind="neurons")
    assert EVIL in page.locator("li").first.inner_text()
    assert page.title() == neurons.TITLE
    page = opened([neurons_of_tasks(text=False)[0]], kind="neurons")
    assert page.locator("li").count() == 0
    assert page.get_by_text("made without any text").count() == 1


# What a page or a chart could read as code: tags, ends of lines in JavaScript, quotes, paths of fields.
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\">\u2028\u2029'\\\"[0].a ${b} `${c}`"


def renamed(found, *names):
    """The data of a page with HOSTILE and a number in the place of every name, within longer texts and among keys too."""
    text = json.dumps(found)
    for number, name in enumerate(names):
        assert name in text, name
        text = text.replace(name, json.dumps(f"{HOSTILE} {number}")[1:-1])
    return json.loads(text)


@pytest.mark.parametrize("kind", ["experts", "pairs", "matrix", "neurons", "sweep", "claims"])
def test_no_name_is_read_as_code(opened, runs, table, kind):
    """Domains, tasks, classes, words, contrasts, captions, settings and runs are shown, and charts drawn."""
    claim = table["rows"][0]
    pairs = pairs_of_svco()[0]
    found = {
        "experts": lambda: renamed(runs[0], "maths", "news", " w7", '"one"'[1:-1]),
        "pairs": lambda: renamed(
            pairs, "svco", "base", pairs["pairs"][0]["category"], pairs["pairs"][0]["responses"][0]
        ),
        "matrix": lambda: renamed(matrix_of_transfer(), " great", "<b>bad"),
        "sweep": lambda: renamed(sweep_of_six(), "balance", "optimizer.lr", "global", f"{4:032x}"),
        "claims": lambda: renamed(table, claim["title"]),
        "neurons": lambda: renamed(neurons_of_tasks()[0], "second", "mood", "good", "bad"),
    }[kind]()
    if kind == "matrix":
        found["targets"] = [f"{HOSTILE} {name}" for name in found["targets"]]
        found["sources"] = [f"{HOSTILE} {name}" if name in "abc" else name for name in found["sources"]]
    found["name"] = HOSTILE
    page = opened([found], kind=kind)
    page.wait_for_timeout(500)
    assert page.title() == TITLES[kind]
    assert page.locator("img[src='x']").count() == 0
    assert HOSTILE.replace("\u2028", " ").split(" ")[0] in page.locator("main").inner_text()
    marks = page.locator("svg .mark-rect path, svg .mark-symbol path")
    assert marks.count() > 0
    for number in range(min(3, marks.count())):
        marks.nth(number).hover(force=True)
    for select in page.locator("select").all():
        for option in range(min(4, select.locator("option").count())):
            select.select_option(index=option)
            page.wait_for_timeout(150)
    assert page.title() == TITLES[kind]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", ["experts", "pairs", "matrix", "neurons", "sweep", "claims"])
def test_nothing_is_cut(opened, runs, table, kind, width, scheme):
    shown = {
        "experts": runs,
        "pairs": [pairs_of_svco()[0]],
        "matrix": [matrix_of_transfer()],
        "sweep": [sweep_of_six()],
        "claims": [table],
        "neurons": [neurons_of_tasks()[0]],
    }[kind]
    page = opened(shown, kind=kind, width=width, scheme=scheme)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert wide == []
    # A chart clips what stands out of it, as a legend that is too wide.
    clipped = page.evaluate(
        "[...document.querySelectorAll('main svg')].flatMap(s => [...s.querySelectorAll('text')].filter(t => t.textContent "
        "&& t.getBoundingClientRect().right > s.getBoundingClientRect().right + 2).map(t => t.textContent))"
    )
    assert clipped == []
