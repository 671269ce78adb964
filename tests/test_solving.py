"Puzzles as people write them: read back as they were written, refused in one line, answered and judged."
import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm_nb import arc, maze, patterns, solve_command, solving, sudoku
from hrm_nb.domains import Domain, parse_grid
from hrm_nb.files import data_path
from hrm_nb.recipes import MazeData, SudokuData
from hrm_nb.shipped import resized, shipped, shipped_models
from hrm_nb.solving import answer, read_puzzle

SEEDS = st.integers(0, 2 ** 32 - 1)


def tokens(seed, low, high, n): return np.random.default_rng(seed).integers(low, high, n)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(sudoku.BOXES), st.integers(1, 7), st.integers(1, 7))
def test_what_a_domain_writes_is_read_back(seed, box, rows, columns):
    n = box[0] * box[1]
    for d, low, read in ((sudoku.domain(box), 1, sudoku.read_text), (maze.domain((rows, columns)), 0, maze.read_text),
                         (patterns.domain((rows, columns)), 2, patterns.read_text)):
        grid = tokens(seed, low, d.vocab_size, d.seq_len)
        found, back = read(d.text(grid))
        assert found == d and (back == grid).all() and d.seq_len in (n * n, rows * columns)
    grid = arc.encode(tokens(seed, 0, 10, rows * columns).reshape(rows, columns))
    assert (arc.read_text(arc.ARC.text(grid))[1] == grid).all()
    own = Domain("own", ("_", "ab", "c"), (rows, columns))
    grid = tokens(seed, 0, 3, own.seq_len)
    assert (parse_grid(own.symbols, own.shape, own.text(grid)) == grid).all()


@pytest.mark.parametrize("box", sudoku.BOXES)
def test_sudokus_in_every_form(box, tmp_path):
    made = sudoku.generate(3, box=box, seed=1)
    d, symbols = made.domain, np.array(made.domain.symbols)
    lines = ["".join(symbols[grid]) for grid in made.inputs]
    (tmp_path / "many.txt").write_text("\r\n".join(lines) + "\r\n")
    sudoku.save_csv(made, tmp_path / "made.csv")
    forms = [d.text(made.inputs[0]), lines[0], lines[0].replace(".", "0"), lines[0].replace(".", "_"), " ".join(lines[0])]
    for text in forms:
        read = read_puzzle(text, box=box)
        assert (read.inputs == made.inputs[:1]).all() and (read.labels == made.labels[:1]).all() and read.domain == d
    for file in ("many.txt", "made.csv"): assert (read_puzzle(tmp_path / file, box=box).inputs == made.inputs).all()


def test_mazes_grids_and_tasks(tmp_path):
    mazes = maze.load(data_path("samples/maze/easy-10x10"), "test").take([0, 1])
    texts = [mazes.domain.text(grid) for grid in mazes.inputs]
    read = read_puzzle("\n\n".join(texts))
    assert (read.inputs == mazes.inputs).all() and (read.labels == mazes.labels).all()
    stripped = "\n".join(line.rstrip() for line in texts[0].split("\n"))
    assert (read_puzzle(stripped).inputs == mazes.inputs[:1]).all()
    both = read_puzzle("019\n222")
    assert both.tags.pattern.tolist() == ["copy", "increment"] and both.labels[1].tolist() == [3, 4, 2, 5, 5, 5]
    tasks = read_puzzle(data_path("samples/arc/training/swap.json"))
    assert tasks.domain == arc.ARC and set(tasks.tags.task) == {"swap"}
    assert (read_puzzle("12\n34", "arc").inputs[0] == arc.encode([[1, 2], [3, 4]])).all()


@pytest.mark.parametrize("text,domain,why", [
    ("1..4", "", "4 cells; a sudoku on one line has 16, 36, 81"), ("53..x" + "." * 76, "", "line 1, column 5: unknown symbol 'x'"),
    ("1" + "." * 15, "", "more than one solution"), ("11" + "." * 14, "", "the givens contradict each other"),
    ("123....4" + "." * 8, "", "no grid obeys the rules"), ("1234\n" * 4, "", "--domain patterns"),
    ("#S\n##", "", "has 0 G"), ("#SSG", "", "has 2 S"), ("S#G", "", "no path"), ("S #\n#xG", "", "line 2, column 2: unknown symbol 'x'"),
    ("12\n3", "", "line 2 has 1 cells"), ("1x\n22", "patterns", "line 1, column 2"), ("{", "", "not valid JSON"), ("[]", "", "a list"),
    ("#S\n#G", "sudoku", "line 1, column 1: unknown symbol '#'"), ("12", "chess", "allowed are sudoku, maze, patterns, arc"),
    ("", "", "empty"), ("hello", "", "begins no known puzzle"), ("no/such/file", "", "no such file"), ("a\0b\n", "", "is not text")])
def test_what_is_refused_in_one_line(text, domain, why):
    with pytest.raises((ValueError, OSError)) as e: read_puzzle(text, domain)
    assert why in str(e.value) and "\n" not in str(e.value)


def test_files_that_hold_no_puzzle(tmp_path):
    for name, raw, why in (("a.bin", b"\x89PNG\0\xff", "is not text"), ("b.txt", b"", "empty"),
                           ("c.txt", b"1" * (solving.LIMIT + 1), "more than 1,000,000 bytes")):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=why): read_puzzle(str(tmp_path / name))
    with pytest.raises(OSError, match="is a folder"): read_puzzle(tmp_path)


class Oracle:
    "In the place of a model: `evaluate` is replaced by what it is told to answer."
    def __init__(self, puzzles, predictions, monkeypatch):
        import pandas as pd
        self.config = SimpleNamespace(seq_len=puzzles.domain.seq_len, vocab_size=puzzles.domain.vocab_size, no_ACT_continue=True,
                                      halt_max_steps=4, num_puzzle_identifiers=3, reads=lambda tokens: False, any_grid=False)
        n = len(puzzles)
        table = pd.DataFrame({"steps": [2] * n, "q_halt": [3.] * n, "q_continue": [0.] * n})
        monkeypatch.setattr(solving, "evaluate", lambda *_, **__: SimpleNamespace(puzzles=table, predictions=predictions))


def test_answers_are_judged(monkeypatch, capsys):
    made = sudoku.generate(1, box=(2, 2), seed=0)
    wrong = made.labels.astype(int)
    wrong[0, np.nonzero(made.inputs[0] > 1)[0][0]] ^= 1
    text = made.domain.text(made.inputs[0])
    for told, verified in ((made.labels, True), (wrong, False)):
        model = Oracle(made, told, monkeypatch)
        a, = answer(read_puzzle(text), model, halt="learned")
        assert (a.verified, a.halted, a.steps, len(a.changed)) == (verified, True, 2, 0 if verified else 1)
        monkeypatch.setattr(solving, "shipped_models", pd_table)
        monkeypatch.setattr(solving, "about_shipped", lambda name: {})
        monkeypatch.setattr(solving, "shipped", lambda name, m=model: m)
        if verified: solve_command.solve(solve_command.SolveOptions(text))
        else:
            with pytest.raises(SystemExit) as e: solve_command.solve(solve_command.SolveOptions(text, json=True))
            assert e.value.code == 1 and json.loads(capsys.readouterr().out)[0]["verified"] is False
        if verified: assert "verified: yes, 2 steps, halt 0.95; solved, surest after step 2 of 4" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no model for a maze of 1x2; at hand: small"): solve_command.solve(solve_command.SolveOptions("SG"))


@pytest.mark.parametrize("rows, columns", [(5, 6), (12, 12), (4, 25), (25, 4)])
def test_a_maze_of_any_size_finds_a_model(rows, columns):
    "Weights that know no grid read every one, a shape of as many cells included; where they learned is said."
    domain = maze.domain((rows, columns))
    field = np.full(rows * columns, domain.symbols.index(" "))
    field[0], field[-1] = domain.symbols.index("S"), domain.symbols.index("G")
    puzzles = read_puzzle(domain.text(field))
    model, _ = solving.model_for(puzzles)
    assert model.config.grid(rows * columns) == (rows, columns) and answer(puzzles)[0].grid.shape == (rows * columns,)
    assert solving.learned_elsewhere(puzzles) == f"{solving.name_for(puzzles)} has learned 10x10; this is maze of {rows}x{columns}"


def test_the_command_says_where_a_model_has_learned(capsys):
    with contextlib.suppress(SystemExit): solve_command.solve(solve_command.SolveOptions("S  #\n ## \n   G"))
    assert "has learned 10x10; this is maze of 3x4" in capsys.readouterr().err
    with contextlib.suppress(SystemExit): solve_command.solve(solve_command.SolveOptions("1...\n..2.\n.4..\n...3"))
    assert "has learned" not in capsys.readouterr().err


@pytest.mark.parametrize("name, shape", [("sudoku-4x4", (6, 6)), ("copy-increment", (6, 6)), ("maze-10x10", (10, 10))])
def test_weights_of_one_grid_stay_with_it(name, shape):
    model = shipped(name)
    assert resized(model, shape) is model
    assert bool(shipped_models().set_index("name").any_grid[name]) == name.startswith("maze")


def pd_table():
    import pandas as pd
    return pd.DataFrame({"name": ["small"], "domain": ["sudoku"], "shape": ["4x4"]})


def test_a_set_by_its_path(tmp_path, monkeypatch):
    "A folder or a CSV of any size, named from where one stands."
    monkeypatch.chdir(tmp_path)
    for size, box in ((4, (2, 2)), (6, (2, 3)), (9, (3, 3))):
        made, folder = sudoku.generate(20, box=box, seed=size), tmp_path / f"s{size}"
        folder.mkdir()
        for split in ("train", "test"): sudoku.save_csv(made, folder / f"{split}.csv")
        train, test = SudokuData(name=f"./s{size}", train=0).load()
        assert train.hash == made.hash and test.domain == made.domain
        train, test = SudokuData(name=f"./s{size}/train.csv", train=0).load()
        assert (len(train), len(test)) == (18, 2) and train.domain == made.domain
    with pytest.raises(OSError, match="./none: no such file"): SudokuData(name="./none").load()
    easy = os.path.relpath(sample_mazes(), tmp_path)
    assert MazeData(name=easy).load()[0].domain == maze.domain(10)


def sample_mazes():
    from pathlib import Path
    return Path(__file__).resolve().parent.parent / "data" / "samples" / "maze" / "easy-10x10"
