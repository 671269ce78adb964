"The explorer as a person meets it: JupyterLab in a real browser. Skipped where no Chromium is found."
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None)
PATIENCE_MS = 90_000  # of a busy machine; an idle one needs a fraction

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (looked for chromium, chromium-browser, google-chrome)")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_run(folder):
    "A run of seconds with checkpoints to compare."
    from hrm_nb.recipes import build, recipe
    from hrm_nb.training import fit
    r = recipe("copy-increment", data=dict(train=128, test=40, size=3), model=dict(hidden_size=32, puzzle_emb_ndim=32),
               train=dict(steps=40, checkpoint_every=20, eval_every=20, device="cpu"))
    model, train, test = build(r)
    fit(model, train, test, r.train, folder)


def make_study(folder):
    "Two trials of a sweep, in seconds."
    from hrm_nb.sweep import Place, run_sweep
    from hrm_nb.varied import Sweep
    tiny = {"data.train": 128, "data.test": 40, "data.size": 3, "model.hidden_size": 32, "model.puzzle_emb_ndim": 32,
            "train.steps": 10, "train.device": "cpu"}
    run_sweep(Sweep("copy-increment", ("train.lr=1e-3,1e-2",), tiny), Place(folder))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab over a copy of the pages, with a run and a study beside them: its address and its folder."
    folder = tmp_path_factory.mktemp("lab")
    pages = folder / "pages"
    pages.mkdir()
    for name in ("start.ipynb", "explorer_page.ipynb"): shutil.copy(ROOT / "nbs" / name, pages)
    make_run(pages / "runs" / "small")
    make_study(pages / "runs" / "sweeps" / "rates")
    port = free_port()
    own = {f"JUPYTER{name}": str(folder / name.strip("_").lower()) for name in ("_CONFIG_DIR", "_DATA_DIR", "_RUNTIME_DIR", "LAB_SETTINGS_DIR", "LAB_WORKSPACES_DIR")}
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1",
               "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={pages}", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "lab.log", "wb") as log:
        server = subprocess.Popen(command, cwd=pages, env=env, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(address, server, folder / "lab.log")
        yield address, pages
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()


def wait_for_server(address, server, log):
    for _ in range(PATIENCE_MS // 200):
        assert server.poll() is None, log.read_text()[-2000:]
        try: return urllib.request.urlopen(f"{address}/api/status", timeout=5).read()
        except OSError: time.sleep(.2)
    raise AssertionError(f"no answer from JupyterLab: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def watched_page(browser, width=1300, height=1100):
    "A page, and the list of what goes wrong on it."
    page, faults = browser.new_page(viewport=dict(width=width, height=height)), []
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda e: faults.append(f"page: {e}"))
    page.on("console", lambda m: faults.append(f"console: {m.text} {m.location}") if m.type == "error" else None)
    return page, faults


def refuse_news(page):
    "JupyterLab asks once whether it may fetch news."
    button = page.get_by_role("button", name="No", exact=True)
    if button.count(): button.first.click()


def run_explorer(page):
    "Run the first cell of the explorer's page; the seconds until its first grid is drawn."
    from playwright.sync_api import TimeoutError
    panel = page.locator(".jp-NotebookPanel:visible")
    panel.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    for _ in range(PATIENCE_MS // 3000):  # a page whose kernel only just got ready drops the first request
        panel.locator(".jp-CodeCell").first.click()
        began = time.perf_counter()
        page.keyboard.press("Shift+Enter")
        try: panel.locator(".jp-CodeCell .jp-InputPrompt").first.filter(has_text=re.compile(r"[*\d]")).wait_for(timeout=3000)
        except TimeoutError: continue
        break
    canvas(page, "answer").wait_for()
    return time.perf_counter() - began


def canvas(page, name): return page.locator(f"canvas[aria-label^='{name}']:visible").first


def choose(page, label, option): page.get_by_label(label, exact=True).locator("visible=true").first.select_option(option)


def message(page, pattern):
    "The panel says what matches."
    page.locator("[role=alert]:visible, [role=status]:visible").filter(has_text=re.compile(pattern)).first.wait_for()


def press(page, name): page.locator(".jupyter-button:visible", has_text=re.compile(f"^ *{name}$")).first.click()


def part(page, name): page.locator(".widget-toggle-button", has_text=re.compile(f"^ *{name}$")).click()


def test_from_the_start_page_to_a_training(lab, browser):
    "All that the explorer is for, once, as a person would do it; nothing goes wrong on page or console."
    address, pages = lab
    page, faults = watched_page(browser)
    try:
        open_explorer(page, address)
        print(f"first picture after {run_explorer(page):.1f} s")
        replay_a_run(page)
        paste_puzzles(page)
        compare_checkpoints(page)
        look_at_a_study(page)
        train_and_stop(page, pages)
    except Exception:
        page.screenshot(path=pages.parent / "failed.png")
        print(f"{pages.parent / 'failed.png'} shows the page; {faults}")
        raise
    assert faults == []
    page.close()


def open_explorer(page, address):
    "From the start page, by its link."
    page.goto(f"{address}/lab/tree/start.ipynb")
    page.get_by_role("link", name="Open the explorer").wait_for()
    refuse_news(page)
    page.get_by_role("link", name="Open the explorer").click()
    page.locator(".jp-NotebookPanel:visible", has_text="Run the cell").wait_for()


def replay_a_run(page):
    "The slider changes the grid, within the browser, in well under a tenth of a second."
    choose(page, "model", "small: step_000020")
    message(page, "small: step_000020: ")
    page.get_by_label(re.compile("^steps")).first.fill("12")
    page.keyboard.press("Enter")
    slider = page.get_by_role("slider").locator("visible=true").first
    page.wait_for_function("document.querySelector('.noUi-handle, [role=slider]').getAttribute('aria-valuemax').startsWith('11')")
    before = canvas(page, "answer").get_attribute("data-step")
    slider.focus()
    slept = page.evaluate("""() => new Promise(done => {
        const c = [...document.querySelectorAll("canvas[aria-label^='answer']")].find(c => c.offsetParent), began = performance.now();
        new MutationObserver(() => done(performance.now() - began)).observe(c, {attributes: true, attributeFilter: ["data-step"]});
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true})); })""")
    assert (before, canvas(page, "answer").get_attribute("data-step")) == ("0", "1")
    assert slept < 100, f"{slept:.0f} ms"


def paste_puzzles(page):
    "A good puzzle is replayed; of a bad one the place is told, and the good one stays."
    choose(page, "puzzles", "type or paste")
    box = page.get_by_placeholder("paste a puzzle here")
    box.fill("123 456 789")
    press(page, "Read text")
    page.locator("canvas[aria-label^='puzzle'][aria-label$='123/456/789']").wait_for()
    box.fill("123 4x6 789")
    press(page, "Read text")
    message(page, "character 'x' at place 5")
    asked = page.locator("canvas[aria-label^='puzzle'][aria-label$='123/456/789']")
    corner = asked.bounding_box()
    page.mouse.click(corner["x"] + 5, corner["y"] + 5)
    page.keyboard.press("9")
    page.locator("canvas[aria-label^='puzzle'][aria-label$='923/456/789']").wait_for()
    press(page, "Solve the typed grid")
    message(page, "small: step_000020: ")


def compare_checkpoints(page):
    part(page, "Checkpoints")
    choose(page, "from", "small: step_000020")
    choose(page, "to", "small: final")
    press(page, "Compare")
    message(page, "McNemar's exact test")
    canvas(page, "truth").wait_for()


def look_at_a_study(page):
    "The trials of a sweep: their table, their picture, and the curves of the best one."
    part(page, "Sweep")
    message(page, "2 trials: 2 complete")
    assert page.locator("table:visible", has_text="train.lr").locator("tr").count() == 3
    page.locator(".jupyter-widgets img:visible").nth(1).wait_for()  # the study's picture, and a curve of the best trial
    widths = page.locator(".jupyter-widgets img:visible").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert min(widths) > 100, widths


def train_and_stop(page, pages):
    "A training runs beside the page, is stopped with a checkpoint, and shows its curve."
    part(page, "Train")
    page.get_by_label("name of the run").fill("made-here")
    page.get_by_label("steps", exact=True).locator("visible=true").first.fill("5000")
    press(page, "Start")
    message(page, r"step \d+ of 5000, in progress")
    press(page, "Stop")
    message(page, "stopped; Resume goes on from here")
    assert (pages / "runs" / "made-here" / "training_history.json").exists()
    assert list((pages / "runs" / "made-here" / "checkpoints").glob("step_*"))
