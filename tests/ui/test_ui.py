"""The MLflow UI in a headless browser, as a user looks at a sweep: `make test-ui`. Writes docs/ui/*.png."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lightning_modules.look import page as pages
from tests.runtime.cli import main
from tests.ui.browser import shot

SETTINGS = ("micro", "global", "global_two_pass")
# Of twelve jobs, before the first test.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ui")
    settings = [
        "balance=micro,global,global_two_pass",
        "seed=1,2,3,4",
        "experiment_name=moe/scope",
        "logger.model=true",
    ]
    main(folder, "-m", *settings, "trainer.max_steps=60", "optimizer.lr=0.003", timeout=1500)
    return folder


@pytest.fixture(scope="module")
def address(sweep):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{sweep}/tracking/mlflow.db"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 90
    while time.monotonic() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}"
    os.killpg(server.pid, 9)


def ids(sweep):
    client = MlflowClient(f"sqlite:///{sweep}/tracking/mlflow.db")
    experiment = client.get_experiment_by_name("moe/scope").experiment_id
    runs = client.search_runs([experiment])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return experiment, parents, [r for r in runs if r not in parents]


def unfold(page, child):
    """Press the + beside the sweep, unless the page still remembers it pressed."""
    page.wait_for_timeout(3000)
    if page.get_by_text(child.info.run_name, exact=True).count():
        return
    button = page.locator("button[data-component-id*='runnamecellrenderer']").first
    button.wait_for(timeout=30_000)
    button.click()


def test_a_sweep_is_one_parent_with_its_children(page, address, sweep):
    experiment, (parent,), children = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning")
    page.get_by_text(parent.info.run_name).first.wait_for(timeout=30_000)
    assert len(children) == 12
    assert page.get_by_text(children[0].info.run_name, exact=True).count() == 0, "folded under its parent"
    unfold(page, children[0])
    for child in children:
        page.get_by_text(child.info.run_name, exact=True).first.wait_for(timeout=15_000)
    shot(page, "sweep")


def test_the_charts_are_grouped_by_system(page, address, sweep):
    experiment, _, children = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART")
    unfold(page, children[0])
    for section in ("moe", "test", "train", "val"):
        page.get_by_text(section, exact=True).first.wait_for(state="attached", timeout=30_000)
    page.get_by_text("moe/lbl_global").first.wait_for(state="attached", timeout=15_000)


def test_charts_grouped_by_setting_draw_a_line_a_setting(page, address, sweep):
    """The mean over its seeds; the sweep's own run is of no setting."""
    experiment, _, _ = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode=CHART")
    page.get_by_role("button", name="Group by").first.click()
    page.get_by_text("setting", exact=True).first.click()
    page.keyboard.press("Escape")
    for setting in SETTINGS:
        page.get_by_text(f"Group: {setting}", exact=True).wait_for(timeout=30_000)
    page.get_by_text("global (moe/lbl)", exact=True).first.wait_for(state="attached", timeout=15_000)
    page.mouse.move(0, 0)
    page.wait_for_timeout(3000)
    shot(page, "compare")


def test_a_run_tells_at_its_head_what_came_out(page, address, sweep):
    experiment, _, (child, *_) = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs/{child.info.run_id}?workflowType=machine_learning")
    value = f"{child.data.metrics['test/ppl']:.4g}"
    page.locator("li", has_text=f"test/ppl: {value}").wait_for(timeout=30_000)
    shot(page, "run")


@pytest.mark.parametrize("figure", ["selection_heatmap.png", "topk_score_sum.png"])
def test_a_figure_opens(page, address, sweep, figure):
    experiment, _, children = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs/{children[0].info.run_id}/artifacts/figures/{figure}")
    page.reload()
    page.get_by_text(f"figures/{figure}", exact=True).wait_for(timeout=30_000)
    picture = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    picture.wait_for(timeout=30_000)
    page.wait_for_timeout(1500)
    assert page.evaluate("e => e.naturalWidth", picture.element_handle()) > 400
    shot(page, Path(figure).stem)


def test_the_report_is_on_the_parent(page, address, sweep):
    experiment, (parent,), _ = ids(sweep)
    page.goto(f"{address}/#/experiments/{experiment}/runs/{parent.info.run_id}/artifacts/report.md")
    page.get_by_text("12 of 12 jobs done").first.wait_for(timeout=30_000)
    shot(page, "report")


def test_the_page_of_the_sweep_is_on_the_parent(sweep):
    """Its numbers are those of its jobs' runs."""
    client = MlflowClient(f"sqlite:///{sweep}/tracking/mlflow.db")
    _, (parent,), children = ids(sweep)
    (found,) = pages.read(Path(client.download_artifacts(parent.info.run_id, pages.LOOK)))["runs"]
    assert {run["run_id"] for run in found["runs"]} == {child.info.run_id for child in children}
    place = found["metrics"].index("test/ppl")
    for run in found["runs"]:
        value = client.get_run(run["run_id"]).data.metrics["test/ppl"]
        assert run["values"][place] == pytest.approx(value, rel=1e-5)
