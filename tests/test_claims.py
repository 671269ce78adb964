"Every number of the two earlier reports stands in a claim, and every claim has an answer."
import os
import re
from pathlib import Path

import nbformat
import pytest

from hrm_nb.results import recorded

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = recorded(ROOT / "results/claims/claims.csv", ["id", "report", "section", "claim"])
REPORTS = {"CPU run": "hrm_cpu_copy_increment_results.md", "GPU run": "hrm_v2_maze_training_results.md"}


def numbers(text):
    "The numbers in a text, as written."
    return set(re.findall(r"\d+(?:[.,]\d+)*(?:e-\d+)?", text))


def test_numbers_are_found():
    assert numbers("from 5:23, lr 1e-4, 3,200 steps, 25.40 %") == {"5", "23", "1e-4", "3,200", "25.40"}


@pytest.mark.parametrize("run, file", REPORTS.items())
def test_no_number_of_a_report_is_missing(run, file):
    place = Path(os.environ.get("HRM_NB_DATA") or "nowhere").parent / "seeds" / file
    if not place.is_file(): pytest.skip("the earlier reports are not at hand")
    text = re.sub(r"```bash.*?```", "", place.read_text(encoding="utf-8"), flags=re.S)  # a listing that is no claim
    claimed = numbers(" ".join(CLAIMS[CLAIMS.report.str.startswith(run)].claim))
    assert numbers(text) - claimed == set()


def test_every_claim_is_answered_on_the_page():
    notebook = nbformat.read(ROOT / "nbs/experiments/claims.ipynb", 4)
    shown = [out.data.get("text/markdown", "") for c in notebook.cells for out in c.get("outputs", ()) if "data" in out]
    rows = [line.split("|") for text in shown for line in text.splitlines() if re.match(r"\| [cg]\d", line)]
    assert [row[1].strip() for row in rows] == list(CLAIMS.id)
    assert [row[2].strip() for row in rows] == list(CLAIMS.claim)
    assert {row[3].strip() for row in rows} == {"confirmed", "refuted", "not testable here"}
    assert all(row[4].strip() for row in rows), "a verdict without what was measured"
