"""The page of a run in a headless browser, opened from its file: `make test-ui`."""

import pytest

from lightning_modules.look import page as pages
from lightning_modules.moe import look as experts
from lightning_modules.svco import look as svco
from lightning_modules.transfer import look as transfer
from tests.moe.test_look import EVIL, drawn, prefers_maths, routed
from tests.svco.test_look import drawn as pairs_of_svco
from tests.transfer.test_look import drawn as matrix_of_transfer
from tests.ui.browser import shot

TITLES = {look.KIND: look.TITLE for look in (experts, svco, transfer)}


@pytest.fixture(scope="module")
def runs():
    held, counts_NLE, domain_N = routed(taste=prefers_maths)
    held.tokens_NS[0, :2] = held.tokens_NS.new_tensor([0, 1])
    loads = [
        (step, counts_NLE.double().mean(0) / counts_NLE.double().mean(0).sum(-1, keepdim=True)) for step in (0, 10)
    ]
    return [drawn(held, counts_NLE, domain_N, loads=loads), {**drawn(*routed()), "name": "other"}]


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


def test_a_cell_of_the_matrix_shows_its_numbers(opened):
    page = opened([matrix_of_transfer()], kind="matrix")
    page.wait_for_timeout(500)
    page.locator("svg .mark-rect path").nth(1).hover(force=True)
    page.wait_for_timeout(300)
    assert "0.800" in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator(".piece").all_inner_texts() == [" great", "<b>bad"]
    shot(page, "look_matrix")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", ["experts", "pairs", "matrix"])
def test_nothing_is_cut(opened, runs, kind, width, scheme):
    shown = {"experts": runs, "pairs": [pairs_of_svco()[0]], "matrix": [matrix_of_transfer()]}[kind]
    page = opened(shown, kind=kind, width=width, scheme=scheme)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert wide == []
