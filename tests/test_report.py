"Pages that people read: the experiments' and those of runs, looked at in a browser where there is one."
import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hrm_nb import run_report
from hrm_nb.cli import main
from hrm_nb.puzzles import PuzzleSet
from hrm_nb.report import REPORT, experiments_page, table_html
from hrm_nb.run_report import write_page
from hrm_nb.runs import Run

ROOT = Path(__file__).parents[1]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ["--data.train", "64", "--data.test", "20", "--data.size", "3", "--model.hidden-size", "32", "--model.puzzle-emb-ndim", "32",
        "--train.steps", "8", "--train.batch-size", "16", "--train.device", "cpu", "--train.log-every", "2", "--train.checkpoint-every", "4"]


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    "The page of the experiments, made of the outputs that the notebooks are committed with."
    path = tmp_path_factory.mktemp("report") / "experiments.html"
    path.write_text(experiments_page({p.stem: (nbformat.read(ROOT / p, 4), "") for p in REPORT}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "Two runs made by the command."
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1): main(["train", "copy-increment", "--run", str(root / f"s{seed}"), *TINY, "--train.seed", str(seed)])
    return root


def silent(*paths, **options): return write_page(paths, progress=lambda text: None, **options)


@pytest.fixture(scope="module")
def page_of_one(two): return silent(two / "s0")


def text_of(path): return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", path.read_text(), flags=re.S))


def tables(path):
    "Every table that is seen before anything is unfolded: lists of rows of texts."
    from bs4 import BeautifulSoup
    soup = BeautifulSoup(path.read_text(), "html.parser")
    for folded in soup.select("details"): folded.decompose()
    return [[[cell.get_text(" ", strip=True) for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")] for table in soup.find_all("table")]


@pytest.mark.parametrize("which", ["experiments", "page_of_one"])
def test_tables_are_for_readers(which, request):
    found = tables(request.getfixturevalue(which))
    assert len(found) > 4
    for head, *rows in found:
        assert all(head), head                                               # every column has a name, so none holds row numbers
        assert len(rows) <= 10, head
        words = {word for row in rows for word in row}
        assert not words & {"NaN", "nan", "None", "NaT", "", "inf"}, head
        assert "_" not in "".join(head)


@pytest.mark.parametrize("which", ["experiments", "page_of_one"])
def test_pages_need_nothing_beside_them(which, request):
    path = request.getfixturevalue(which)
    html = path.read_text()
    assert path.stat().st_size < 10e6
    assert set(re.findall(r"<img[^>]*?src=\"([a-z]+:)", html)) == {"data:"}
    assert not re.search(r"<(link|iframe)\b|<script[^>]+src=|url\(['\"]?(https?:)?//|@import", html)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["experiments", "page_of_one"])
def test_in_a_browser(which, scheme, request):
    "On a desk and on a phone: nothing is fetched, no image is broken, the page does not scroll sideways, no figure is shown too small to read."
    sync_api = pytest.importorskip("playwright.sync_api")
    path = request.getfixturevalue(which)
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (1300, 390):
            page = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme).new_page()
            asked, said = [], []
            page.on("request", lambda r: asked.append(r.url))
            page.on("console", lambda m: said.append(m.text)); page.on("pageerror", lambda e: said.append(str(e)))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width
            images = page.evaluate("[...document.querySelectorAll('.figure img')].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
            assert images and all(natural and shown >= min(.7 * natural, 340) for natural, shown in images), images
            ink, paper = page.evaluate("['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k].match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b))")
            assert (ink > paper + 400) if scheme == "dark" else (paper > ink + 400)
            assert all(url.startswith(("file:", "data:")) for url in asked) and said == []
        browser.close()


def test_the_summary_comes_first(experiments):
    text = text_of(experiments)
    assert re.search(r"What was found Questions: \d+\. Findings: \d+, of them \d+ confirmed, \d+ refuted", text)
    for p in REPORT:
        title = nbformat.read(ROOT / p, 4).cells[0].source.splitlines()[0].lstrip("# ")
        assert text.count(" ".join(title.split())) >= 2, title                  # in the summary and over its page
        assert f'href="#page-{p.stem}"' in experiments.read_text() and f'id="page-{p.stem}"' in experiments.read_text()
    assert not re.search(r"\{[a-z_]+\}|\*\*", text.split("Setup")[0])


def test_every_finding_is_in_the_summary(experiments):
    from bs4 import BeautifulSoup
    rows = BeautifulSoup(experiments.read_text(), "html.parser").select("#top .found tbody tr")
    said = [text for p in REPORT for c in nbformat.read(ROOT / p, 4).cells for o in c.get("outputs", ())
            if (text := o.get("data", {}).get("text/markdown", "")).startswith(("**Finding (", "**What would change our mind ("))]
    assert len(rows) == len(said) and [r.td.get_text() for r in rows] == [re.search(r"\((.*?)\)", text)[1] for text in said]


def test_the_page_of_a_run(two, page_of_one):
    text, run = text_of(page_of_one), Run(two / "s0")
    result = pd.DataFrame(run.puzzles("test").labels)
    assert f"of {len(result)} puzzles exactly" in text and "95 % interval" in text
    for heading in ("Configuration", "Environment", "Curves", "Evaluation", "By kind of puzzle", "Examples", "Replay", "Halting", "Checkpoints compared"):
        assert heading in text
    assert "Missing" not in text and "copy-increment" in text
    rows = {row[0]: row[1:] for table in tables(page_of_one) for row in table}
    assert rows["train.steps"] == ["160", "8"] and rows["model.hidden_size"] == ["64", "32"]      # the recipe's, and here
    assert rows["commit"][0] == run.environment["commit"]
    assert [name in rows for name in run.checkpoints.name] == [True] * len(run.checkpoints)


def test_runs_are_compared(two, tmp_path):
    text = text_of(silent(two / "s0", two / "s1", output=tmp_path / "both.html"))
    assert "Runs compared" in text and "p holm" in text and "Run s0" in text and "Run s1" in text


def test_runs_over_different_puzzles_are_refused(two, tmp_path):
    main(["train", "copy-increment", "--run", str(tmp_path / "other"), *TINY, "--data.seed", "7"])
    with pytest.raises(ValueError, match="puzzles|hash"): silent(two / "s0", tmp_path / "other", output=tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
    silent(two / "s0", tmp_path / "other", output=tmp_path / "x.html", data=str(two / "s0"))       # one set for both


def spoil_history(run): (run / "training_history.json").write_text("{")
def uneven_history(run): (run / "training_history.json").write_text('{"step": [1, 2], "train_lm_loss": [3]}')
def listed_history(run): (run / "training_history.json").write_text("[]")
def no_history(run): (run / "training_history.json").unlink()
def no_environment(run): (run / "environment.json").unlink()
def no_checkpoint(run): shutil.rmtree(run / "checkpoints")
def no_final(run): [shutil.rmtree(run / "checkpoints" / name) for name in ("final", "best")]
def no_set(run):
    shutil.rmtree(run / "data")
    config = json.loads((run / "config.json").read_text())
    for part in config["data"].values(): part["stored"] = False
    (run / "config.json").write_text(json.dumps(config))
def torn_best(run): (run / "checkpoints/best/model.safetensors").write_bytes(b"x" * 20)
def no_recipe(run):
    config = json.loads((run / "config.json").read_text())
    del config["recipe"]
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("spoil, words", [
    (spoil_history, "The history cannot be read"), (uneven_history, "The history cannot be read"), (listed_history, "history"),
    (no_history, "There is no history yet"), (no_environment, "environment.json"), (no_checkpoint, "no checkpoint yet"),
    (no_final, "not finished: its newest checkpoint, step 8"), (no_set, "too large to be stored"), (torn_best, "model.safetensors"),
    (no_recipe, "train.batch_size")], ids=lambda v: getattr(v, "__name__", ""))
def test_a_damaged_run_gets_a_page_that_says_what_is_missing(two, tmp_path, spoil, words, monkeypatch):
    parts = tuple(p for p in run_report._PARTS if p[0] not in ("Replay", "Halting"))   # seconds each, tested on the whole run
    monkeypatch.setattr(run_report, "_PARTS", parts)
    shutil.copytree(two / "s0", tmp_path / "run")
    spoil(tmp_path / "run")
    path = silent(tmp_path / "run", examples=10)
    text = text_of(path)
    assert words in text and "Configuration" in text and "train.steps" in text and "Traceback" not in text
    if spoil in (spoil_history, uneven_history, no_history, no_environment, no_final): assert "puzzles exactly" in text


def test_a_page_for_a_set_that_was_not_stored(two, tmp_path):
    shutil.copytree(two / "s0", tmp_path / "run")
    Run(tmp_path / "run").puzzles("test").take(range(12)).save(tmp_path / "set", "test")
    no_set(tmp_path / "run")
    text = text_of(silent(tmp_path / "run", data=str(tmp_path / "set")))
    assert "of 12 puzzles exactly" in text
    assert isinstance(PuzzleSet.load(tmp_path / "set", "test"), PuzzleSet)


def test_a_table_escapes_what_it_is_given():
    html = table_html(pd.DataFrame({"a<b": ["<script>", None]}))
    assert "<script>" not in html and "a&lt;b" in html and "–" in html
