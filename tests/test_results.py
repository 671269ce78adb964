"Recorded rows, findings and figures of experiments; and what the pages of the experiments say."
import os
import re
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from hrm_nb import results
from hrm_nb.earlier import advance, begin, grids
from hrm_nb.results import criterion, experiment, finding, newest, record, recorded

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))
KEY = ("seed", "steps", "commit")


def rows(*seeds, **more):
    "One dict a seed."
    return [dict(seed=seed, steps=160, exact=1000 - seed, commit="0a1b") | more for seed in seeds]


# ---- rows

def test_rows_that_are_there_are_skipped(tmp_path):
    path = tmp_path / "made" / "runs.csv"
    assert record(path, rows(0, 1), KEY).seed.tolist() == [0, 1]
    before = path.read_bytes()
    table = record(path, rows(1, exact=5), KEY)
    assert table.exact.tolist() == [1000, 999] and path.read_bytes() == before
    table = record(path, rows(1, 2, 2) + rows(1, commit="other"), KEY)             # of two equal keys within a call the first
    assert table.seed.tolist() == [0, 1, 2, 1] and path.read_bytes().startswith(before)


def test_a_table_and_a_list_record_the_same(tmp_path):
    record(tmp_path / "a.csv", rows(0, 1), KEY)
    record(tmp_path / "b.csv", pd.DataFrame(rows(0, 1)), KEY)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    wide = pd.DataFrame(rows(0, 1)).astype({"steps": float})                       # 160.0 is the same key as 160
    assert len(record(tmp_path / "a.csv", wide, KEY)) == 2


def test_new_columns_come_last_and_what_is_missing_is_empty(tmp_path):
    path = tmp_path / "runs.csv"
    record(path, rows(0), KEY)
    table = record(path, [dict(commit="c", lr=.1, steps=7, seed=3), *rows(4, exact=np.nan)], KEY)
    assert path.read_text() == "seed,steps,exact,commit,lr\n0,160,1000,0a1b,\n3,7,,c,0.1\n4,160,,0a1b,\n"
    assert table.exact.isna().tolist() == [False, True, True] and table.lr.isna().tolist() == [True, False, True]


def test_values_come_back_as_they_were(tmp_path):
    numbers = [1 / 3, 1e-17, 123456789.123456789, -0.1]
    table = record(tmp_path / "x.csv", [dict(seed=i, value=v, data_hash="1234567e9999", torch="2.10") for i, v in enumerate(numbers)], "seed")
    assert table.value.tolist() == numbers
    assert set(table.data_hash) == {"1234567e9999"} and set(table.torch) == {"2.10"}
    odd = 'a, "b"\nc'
    assert record(tmp_path / "y.csv", [dict(seed=0, device_name=odd)], "seed").device_name[0] == odd
    assert recorded(tmp_path / "y.csv").device_name[0] == odd


def test_recorded_files_of_this_repository_are_kept_line_by_line(tmp_path):
    "Adding a row to each leaves its lines as they are."
    files = sorted((ROOT / "results").glob("*/*.csv"))
    assert len(files) >= 6
    for file in files:
        copy = tmp_path / "copy.csv"
        copy.write_bytes(file.read_bytes())
        first = recorded(copy).columns[0]
        record(copy, [{first: 10 ** 9}], first)
        assert copy.read_bytes().splitlines()[:-1] == file.read_bytes().splitlines(), file


DAMAGED = {"cut": b"seed,steps,commit\n0,160,a\n1,16", "short line": b"seed,steps,commit\n0,160\n", "no text": b"\x89PNG\r\n\x1a\n", "empty": b"",
           "open quote": b'seed,steps,commit\n0,160,"a\n', "foreign": b"what,value\nspeed,3\n", "names twice": b"seed,seed,steps,commit\n0,0,1,a\n"}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_or_foreign_file_is_refused_and_left(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="runs.csv"): record(path, rows(0), KEY)
    with pytest.raises(ValueError, match="runs.csv"): recorded(path, KEY)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_bad_rows_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "runs.csv"
    with pytest.raises(ValueError, match="a row without commit"): record(path, [dict(seed=0, steps=1)], KEY)
    with pytest.raises(ValueError, match="cannot be recorded"): record(path, rows(0, exact=[1, 2]), KEY)
    with pytest.raises(ValueError, match="key is empty"): record(path, rows(0), ())
    assert not path.exists()


def test_a_write_that_fails_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    record(path, rows(0), KEY)
    before = path.read_bytes()
    def full(*args): raise OSError("No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="runs.csv"): record(path, rows(1), KEY)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_nothing_recorded_yet(tmp_path):
    table = recorded(tmp_path / "none.csv", ["seed", "exact"])
    assert len(table) == 0 and list(table) == ["seed", "exact"]
    assert len(record(tmp_path / "none.csv", [], KEY)) == 0 and not (tmp_path / "none.csv").exists()


def test_the_newest_commit_of_each_machine():
    table = pd.DataFrame(dict(device_name=list("aabba"), commit=["1", "2", "1", None, "2"], wrong=range(5)))
    assert newest(table, "device_name").wrong.tolist() == [1, 3, 4]
    assert newest(table).wrong.tolist() == [1, 4]


# ---- findings

def test_a_verdict_is_computed():
    numbers = np.array([.98, 1.])
    assert finding("All are above 0.9.", (numbers > .9).all(), "").verdict == "confirmed"
    assert finding("All are above 0.99.", (numbers > .99).all(), "").verdict == "refuted"
    assert finding("All are above 0.9.", None, "The set is not at hand.").verdict == "not drawn"
    assert [criterion("One below 0.9.", met, "").verdict for met in (True, False)] == ["met", "not met"]
    for holds in ("yes", 1, .5, np.array([True, False]), pd.Series([True])):
        with pytest.raises(ValueError, match="allowed are True, False and None"): finding("All.", holds, "")


def test_a_page_fails_when_its_finding_turns():
    f = finding("All are perfect.", 999 == 1000, "999 of 1,000.")
    assert f.expect(False) is f
    for other in (True, None):
        with pytest.raises(AssertionError, match="All are perfect. 999 of 1,000."): f.expect(other)


@pytest.mark.parametrize("text", ["lies within 14 of 20.{stand_in}", "{rows.exact.max():.2f} points", "{said('copy', 1)} copies", "{x!r}", "{t[0]}"])
def test_a_placeholder_left_open_is_refused(text):
    for place in (lambda: finding(text, True, ""), lambda: finding("It is so.", True, text), lambda: criterion(text, True, "")):
        with pytest.raises(ValueError, match="placeholder"): place()


@pytest.mark.parametrize("text", ["{1, 2}", "sets {} and {2: 'a'}", "banana and nano"])
def test_other_braces_and_words_pass(text): assert finding("It is so.", True, text).evidence == text


def test_numbers_that_were_never_measured_and_typed_verdicts_are_refused():
    with pytest.raises(ValueError, match="never measured"): finding("It is so.", True, f"It takes {float('nan'):.1f} s.")
    with pytest.raises(ValueError, match="the verdict is computed"): finding("Confirmed: it is so.", True, "")


# ---- figures and folders

def drawn():
    from matplotlib.figure import Figure
    fig = Figure((2, 1))
    fig.subplots().plot([0, 1])
    return fig


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    a, b = results.keep(drawn(), tmp_path / "x", "a"), results.keep(drawn(), tmp_path / "x", "b")
    assert a == tmp_path / "x" / "a.png" and a.read_bytes() == b.read_bytes()
    with pytest.raises(ValueError, match="name is"): results.keep(drawn(), tmp_path, "a/b")


def test_folders_of_an_experiment(tmp_path, monkeypatch):
    monkeypatch.delenv("HRM_NB_OUT", raising=False)
    monkeypatch.delenv("HRM_NB_RECORD", raising=False)
    monkeypatch.chdir(ROOT / "nbs" / "experiments")
    page = experiment("copies")
    assert (page.figures, page.results) == (ROOT / "figures" / "copies", ROOT / "results" / "copies") and not page.wants()
    monkeypatch.setenv("HRM_NB_OUT", str(tmp_path))
    monkeypatch.setenv("HRM_NB_RECORD", "1,shares")
    page = experiment("copies")
    assert page.figures == tmp_path / "figures" / "copies" and page.runs.parent == tmp_path / "runs"
    assert page.results == ROOT / "results" / "copies"
    assert page.wants() and page.wants("shares") and not page.wants("replays")
    assert page.keep(drawn(), "line", stand_in=True).name == "line_stand_in.png"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="settings.ini"): experiment("copies")


@pytest.mark.parametrize("given, seeds", [(None, 5), ("2", 2), ("9", 5)])
def test_a_page_runs_as_many_seeds_as_are_asked_for(monkeypatch, capsys, given, seeds):
    monkeypatch.chdir(ROOT)
    if given is None: monkeypatch.delenv("HRM_NB_SEEDS", raising=False)
    else: monkeypatch.setenv("HRM_NB_SEEDS", given)
    assert experiment("copies").seeds(5) == range(seeds)
    assert ("2 of 5 seeds" in capsys.readouterr().out) == (given == "2")


@pytest.mark.parametrize("given", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_of_seeds_is_named(monkeypatch, given):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HRM_NB_SEEDS", given)
    with pytest.raises(ValueError, match=f"HRM_NB_SEEDS is {given!r}"): experiment("copies").seeds(5)


def test_stand_in_figures_are_ignored_by_git():
    path = "figures/earlier_run/earlier_run_again_stand_in.png"
    assert subprocess.run(["git", "check-ignore", "-q", "--no-index", path], cwd=ROOT).returncode == 0 or not (ROOT / ".git").exists()
    assert not list((ROOT / "figures").rglob("*_stand_in.png")) or subprocess.run(
        ["git", "ls-files", "figures"], cwd=ROOT, capture_output=True, text=True).stdout.count("_stand_in") == 0


# ---- the pages

def shown(page):
    "What a page's committed outputs say."
    for cell in nbformat.read(page, 4).cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "") or "".join(output.get("data", {}).get("text/markdown", "")) or "".join(output.get("data", {}).get("text/plain", ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_no_page_shows_a_placeholder(page):
    left = [found[0] for text in shown(page) for found in re.finditer(r"\{[^\W\d]\w*(?:[.\[(:!][^{}'\"]*)?\}", text)]
    assert not left, f"{page.name} shows {left}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_is_whole(page):
    "A question, what would change our mind, at least one computed verdict, its limits; and every finding is held to its outcome."
    nb = nbformat.read(page, 4)
    assert nb.cells[0].cell_type == "markdown" and nb.cells[0].source.startswith("# ")
    text = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
    for part in ("**Question.**", "**What would change our mind:**", "## Setup", "## Run", "## What this does not show"): assert part in text, part
    verdicts = [t for t in shown(page) if re.match(r"\*\*(Finding|What would change our mind) \(", t)]
    assert any(v.startswith("**Finding (") for v in verdicts) and any(v.startswith("**What would change our mind (") for v in verdicts)
    for cell in nb.cells:
        if cell.cell_type == "code" and re.search(r"^(finding|criterion)\(", cell.source, re.M): assert re.search(r"\.expect\(.+\)$", cell.source)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_keeps_to_its_own_folders(page):
    source = "\n".join(c.source for c in nbformat.read(page, 4).cells if c.cell_type == "code")
    assert f'experiment("{page.stem}")' in source
    for name in re.findall(r'page\.keep\(fig, "(\w+)"', source): assert (ROOT / "figures" / page.stem / f"{name}.png").is_file()


def test_the_pages_link_to_what_is_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)]+)\)", "\n".join(c.source for c in nbformat.read(page, 4).cells)):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# ---- the earlier run

def test_the_earlier_rule_is_the_same_run_with_padding_counted(one_thread):
    "One step of the old rule and of ours differ by the halting losses of the row of padding alone."
    data = grids(5)
    old, ours = advance(begin(3, data)), advance(begin(3, data, padding_counts=False))
    assert old.scores.right.float().mean() == .5 and not ours.scores.right.any()
    assert (old.answers == ours.answers).all() and old.halting_part > ours.halting_part
    assert (old.loss - old.halting_part) == pytest.approx(ours.loss - ours.halting_part, abs=1e-4)
