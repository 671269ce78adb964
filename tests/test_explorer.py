"The explorer without a browser: the state of its widgets, and what it says to bad input."
import asyncio
import html
import json
import shutil
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ipywidgets")
from hrm_nb import panels, patterns, sudoku
from hrm_nb.explorer import PARTS, TYPED, CheckpointPanel, Explorer, ReplayPanel, pasted
from hrm_nb.panels import BreakdownPanel, RunsPanel, Shelf, free_path, save_as
from hrm_nb.puzzles import IGNORE
from hrm_nb.recipes import build, recipe
from hrm_nb.training import fit
from hrm_nb.runs import Run
from hrm_nb.training_panels import TrainPanel


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with a run of seconds."
    root = tmp_path_factory.mktemp("explored") / "runs"
    r = recipe("copy-increment", data=dict(train=128, test=40, size=3), model=dict(hidden_size=16, puzzle_emb_ndim=16),
               train=dict(steps=20, checkpoint_every=10, eval_every=10, device="cpu"))
    model, train, test = build(r)
    fit(model, train, test, r.train, root / "small")
    return root


@pytest.fixture
def root(made, tmp_path):
    "A copy of it to spoil."
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture(autouse=True)
def no_shipped(monkeypatch):
    "Only what a test puts there is on the shelf."
    monkeypatch.setattr(panels, "shipped_names", list)


def said(panel): return html.unescape(panel.message.value)
def is_alert(panel): return 'role="alert"' in panel.message.value


def test_an_empty_folder_is_said_in_every_part(tmp_path):
    for place, words in ((tmp_path, "no runs below this folder"), (tmp_path / "nowhere", "no such folder")):
        explorer = Explorer(place, tmp_path / "saved")
        for name in PARTS:
            explorer.part.value = name
            panel = explorer.panels[name]
            if name in ("Replay", "Runs", "Watch"): assert words in said(panel) and is_alert(panel)
        explorer.panels["Breakdown"].run.click()
        assert words in said(explorer.panels["Breakdown"])
        explorer.panels["Checkpoints"].run.click()
        assert words in said(explorer.panels["Checkpoints"])


def test_damaged_history_beside_a_whole_checkpoint(root):
    (root / "small" / "training_history.json").write_text('{"step": [1,')
    explorer = Explorer(root, root.parent / "saved")
    assert "halts" in said(explorer.panels["Replay"]) or "halt" in said(explorer.panels["Replay"])  # the weights are whole
    for name in ("Runs", "Watch"):
        explorer.part.value = name
        assert "training_history.json: not valid JSON" in said(explorer.panels[name]) and is_alert(explorer.panels[name])
    assert (root / "small" / "training_history.json").read_text() == '{"step": [1,'


def test_a_run_without_history_or_test_set(root):
    (root / "small" / "training_history.json").unlink()
    config = json.loads((root / "small" / "config.json").read_text())
    config["data"]["test"] = None
    (root / "small" / "config.json").write_text(json.dumps(config))
    shelf = Shelf(root)
    assert "nothing was logged yet" in said(RunsPanel(shelf))
    panel = BreakdownPanel(shelf)
    panel.run.click()
    assert "the run stored no test set" in said(panel) and is_alert(panel)


def test_a_damaged_checkpoint(root):
    file = root / "small" / "checkpoints" / "final" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    panel = ReplayPanel(Shelf(root))
    panel.model.value = "small: final"
    assert is_alert(panel) and "model.safetensors" in said(panel) and "fault of the explorer" not in said(panel)
    panel.model.value = "small: best"
    assert not is_alert(panel)


def test_another_domain(root, monkeypatch):
    "A checkpoint that could read the numbers, but means something else by them."
    shelf = Shelf(root)
    panel = CheckpointPanel(shelf)
    monkeypatch.setattr(panel.source, "take", lambda choice: sudoku.generate(3, box=(2, 2), seed=1))
    panel.run.click()
    assert is_alert(panel) and "reads patterns of 3 x 3 cells" in said(panel) and "the puzzles are sudoku of 4 x 4" in said(panel)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_any_pasted_text_is_read_or_refused(text):
    like = patterns.make(2, size=3)
    try: puzzle = pasted(text, like)
    except ValueError as e: assert "place" in str(e) or "cells" in str(e)
    else: assert puzzle.inputs.shape == (1, 9) and (puzzle.labels == IGNORE).all()


@pytest.mark.parametrize("text, words", [("123 456 78", "8 cells; patterns of 3 x 3 needs 9"), ("123 4?6 789", "character '?' at place 5"), ("", "0 cells")])
def test_bad_text_keeps_what_was_there(made, text, words):
    panel = ReplayPanel(Shelf(made))
    panel.source.source.value = TYPED
    before, trace = panel.asked.frames, panel.trace
    panel.text.value = text
    panel.read.click()
    assert words in said(panel) and is_alert(panel)
    assert panel.asked.frames == before and panel.trace is trace


def test_text_is_read_when_its_field_is_left(made):
    "A browser may send the press of a button before the text; an emptied field says nothing."
    panel = ReplayPanel(Shelf(made))
    panel.source.source.value = TYPED
    panel.read.click()
    panel.text.value = "123 456 789"
    assert list(panel.trace.inputs) == list(range(3, 12)) and not is_alert(panel)
    panel.text.value = ""
    assert not is_alert(panel)
    panel.text.value = "123 4?6 789"
    assert "character '?' at place 5" in said(panel) and is_alert(panel)


def test_all_steps_are_in_the_browser(made):
    "The slider asks nobody: as many frames as steps, each with its marks, and moving costs no redraw in Python."
    panel = ReplayPanel(Shelf(made))
    panel.steps.value = 16
    canvas, t = panel.answer, panel.trace
    assert len(canvas.frames) == len(canvas.marks) == len(canvas.confidence) == 16 == panel.slider.max + 1
    for k in range(16):
        assert np.array_equal(np.array(canvas.marks[k]) & 1, t.wrong[k]) and np.array_equal(canvas.frames[k], t.grids[k])
    began = time.perf_counter()
    for k in range(16): canvas.step = k
    assert (time.perf_counter() - began) / 16 < .1
    assert len(json.dumps([canvas.frames, canvas.marks, canvas.confidence])) < 20_000


def test_every_button_saves_and_nothing_is_written_over(made, tmp_path):
    panel = ReplayPanel(Shelf(made), tmp_path / "kept")
    for _ in range(2):
        for button in panel.children[-1].children[:-1]:
            button.click()
            assert "saved as" in said(panel), said(panel)
    names = {p.name for p in (tmp_path / "kept").iterdir()}
    assert {"replay.png", "replay-2.png", "steps.csv", "steps-2.csv", "replay.gif", "replay-2.gif", "replay.html", "replay-2.html"} <= names
    (tmp_path / "file").touch()
    panel.folder.value = str(tmp_path / "file")
    panel.children[-1].children[0].click()
    assert is_alert(panel) and "could not be written" in said(panel)


def test_a_training_is_stopped_and_goes_on(made, tmp_path):
    "Start, Stop and Resume, as the buttons do it, in the loop of a kernel."
    async def session():
        panel = TrainPanel(Shelf(tmp_path / "runs"))
        panel.name.value, panel.device.value = "long", "cpu"
        panel.fields["steps"].value = "4000"
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a kernel has it between cells
        panel.start.click()
        signal.signal(signal.SIGINT, before)
        history = tmp_path / "runs" / "long" / "training_history.json"
        for _ in range(600):
            if history.exists() and len(json.loads(history.read_text()).get("step", ())) > 1: break
            await asyncio.sleep(.1)
        panel.start.click()
        assert is_alert(panel) and "exists already" in said(panel)
        panel.stop.click()
        await asyncio.wait_for(panel.task, 180)
        assert "stopped; Resume goes on from here" in said(panel), said(panel)
        assert panel.watch.pick.value == "long" and "interrupted" in said(panel.watch)
        panel.resume.click()
        assert panel.job.alive
        panel.stop.click()                                      # before the process listens: it is told again
        await asyncio.wait_for(panel.task, 180)
        assert Run(tmp_path / "runs" / "long").history.step.iloc[-1] < 4000
    asyncio.run(session())


def test_names_are_free(tmp_path):
    assert [save_as(tmp_path, "a.txt", str(k)).name for k in range(3)] == ["a.txt", "a-2.txt", "a-3.txt"]
    assert free_path(tmp_path, "a.txt").name == "a-4.txt" and (tmp_path / "a.txt").read_text() == "0"
