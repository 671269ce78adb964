"""Files and values of strangers: what is read is right, or refused in one ValueError or OSError that names file or field.

Every case runs under `fair`: at most SECONDS of processor time, at most MEGABYTES more memory, no waiting. The first part
names what was once found; the second lets hypothesis look for more, in cases that are the same on every run.
"""
import ast
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import hrm_nb
from hrm_nb import arc, maze, sudoku
from hrm_nb.config import from_values
from hrm_nb.domains import describe_domain, grid_domain, restore_domain
from hrm_nb.files import MOST_JSON, MOST_TENSORS, load_tensors, read_json, tensor_state
from hrm_nb.model import Reasoner, ReasonerConfig
from hrm_nb.published import load_published, read_yaml, weight_shapes
from hrm_nb.puzzles import PuzzleSet, read_csv
from hrm_nb.recipes import RECIPES, ArcData, MazeData, PatternData, SudokuData
from hrm_nb.runs import create_run, save_model
from hrm_nb.shipped import models_folder, shipped, shipped_models, shipped_puzzles
from hrm_nb.solving import read_puzzle
from hrm_nb.sources import read_npy, stored_json
from hrm_nb.trainer import TrainConfig

SECONDS, MEGABYTES, PATIENCE_S = 2, 500, 30  # of one case; wall seconds after which it counts as hung
pytestmark = pytest.mark.filterwarnings("ignore")


# ---- the judge

class Hung(BaseException):
    "Raised in a case that waits."


def _hung(*_): raise Hung(f"waited for more than {PATIENCE_S} s")


@contextmanager
def bounds():
    "Little memory and time for what runs inside."
    before, size = resource.getrlimit(resource.RLIMIT_AS), int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEGABYTES * 2 ** 20, before[1]))
    old, began = signal.signal(signal.SIGALRM, _hung), time.process_time()
    signal.alarm(PATIENCE_S)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - began < SECONDS, f"{time.process_time() - began:.1f} s"


def fair(call, *naming):
    "The result of a call, or the message by which it is refused, which must hold one of the names."
    with bounds():
        try: return call()
        except (ValueError, OSError) as e: error = e
    text = str(error)
    assert len(text) < 2000 and "0x7f" not in text, text[:3000]
    assert not naming or any(str(name) in text for name in naming), (naming, text)
    return text


def refused(call, *words):
    "As `fair`, of a case that must be refused; the message holds all the words."
    text = fair(call)
    assert isinstance(text, str), f"accepted: {text!r:.300}"
    for word in words: assert str(word) in text, text
    return text


def every(n, strategy, test):
    "Run a test on n values, the same on every run."
    count = 0

    @settings(max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(strategy)
    def run(value):
        nonlocal count
        count += 1
        test(value)
    run()
    assert count >= n, f"{count} cases of {n}"


# ---- what is damaged

SET = dict(pad_id=0, ignore_label_id=0, blank_identifier_id=0, vocab_size=5, seq_len=4, num_puzzle_identifiers=3, total_groups=2,
           mean_puzzle_examples=4 / 3, sets=["all"])
PARTS = dict(inputs=np.ones((4, 4), np.uint8), labels=np.full((4, 4), 2, np.uint8), puzzle_identifiers=np.array([0, 1, 2], "<i4"),
             puzzle_indices=np.array([0, 1, 2, 4], "<i4"), group_indices=np.array([0, 2, 3], "<i4"))


@pytest.fixture
def stored(tmp_path):
    "A small set; returns a function that writes it with some arrays or fields of dataset.json replaced."
    def write(meta=None, names=("<blank>", "a", "b"), **arrays):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        (tmp_path / "set/train").mkdir(parents=True)
        for key, array in (PARTS | arrays).items(): np.save(tmp_path / f"set/train/all__{key}.npy", array)
        (tmp_path / "set/train/dataset.json").write_text(json.dumps(SET | (meta or {})))
        (tmp_path / "set/identifiers.json").write_text(json.dumps(names))
        return tmp_path / "set"
    return write


TINY = ReasonerConfig.hrm(vocab_size=5, seq_len=4, hidden_size=8, num_heads=2, H_layers=1, L_layers=1, puzzle_emb_ndim=8,
                          num_puzzle_identifiers=3, forward_dtype="float32")


@pytest.fixture
def checkpoint(tmp_path):
    "A small published checkpoint; returns a function that writes it with some tensors or fields of its configuration replaced."
    weights = {k: v.clone() for k, v in Reasoner(TINY).state_dict().items()}
    def write(config=None, **tensors):
        path = tmp_path / "published.pt"
        torch.save(dict(model_config=TINY.to_dict() | (config or {}), model_state_dict=weights | {k.replace("__", "."): v for k, v in tensors.items()}),
                   path)
        return path
    return write


@pytest.fixture
def shipped_copy(tmp_path):
    "A copy of a shipped model in a folder of models; returns a function that changes its config.json."
    shutil.copytree(models_folder() / "copy-increment", tmp_path / "models/a")
    file = tmp_path / "models/a/config.json"
    about = json.loads(file.read_text())
    def write(value=None, **changes):
        file.write_text(value if isinstance(value, str) else json.dumps(about | changes))
        return tmp_path / "models"
    write.about = about
    return write


def load(folder, bad_rows="raise"): return PuzzleSet.load(folder, "train", bad_rows=bad_rows)


# ---- named: nothing of a file is executed

def calls(name, source):
    "(function as written, arguments by name, where) of every call in a module."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call): yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, f"{name}:{node.lineno}"


def test_the_package_reads_without_running_what_it_reads():
    "Every reader that could run code is called in the form that does not; one place runs a file, which the user named."
    found = [call for p in sorted(Path(hrm_nb.__file__).parent.glob("*.py")) for call in calls(p.name, p.read_text(encoding="utf-8"))]
    assert sum(f == "torch.load" for f, _, _ in found) and sum(f == "np.load" for f, _, _ in found)
    for function, named, where in found:
        if function == "torch.load": assert named.get("weights_only") == "True", where
        if function == "np.load": assert named.get("allow_pickle") == "False", where
        assert function not in ("eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "joblib.load", "os.system"), where
        if function.endswith("exec_module"): assert where.startswith("domains.py"), where


class Runs:
    "Makes a folder as it is unpickled."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


def test_what_would_run_is_refused(checkpoint, stored, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "a.pt"
    torch.save(dict(model_config={}, model_state_dict=Runs(ran)), path)
    refused(lambda: load_published(path), path, "could run code")
    path.write_bytes(pickle.dumps(Runs(ran)))
    refused(lambda: load_published(path), path)
    folder = stored()
    for raw in (pickle.dumps(Runs(ran)), None):
        if raw: (folder / "train/all__inputs.npy").write_bytes(raw)
        else: np.save(folder / "train/all__inputs.npy", np.array([[Runs(ran)]]), allow_pickle=True)
        refused(lambda: load(folder), "all__inputs.npy", "could run code")
    (tmp_path / "all_config.yaml").write_text(f"arch: !!python/object/apply:os.mkdir ['{ran}']")
    refused(lambda: read_yaml(tmp_path / "all_config.yaml"), "all_config.yaml")
    described = describe_domain(sudoku.domain((2, 2))) | {"class": "os.path.join"}
    assert restore_domain(described) is None and not ran.exists()


# ---- named: hangs

def test_a_pipe_in_place_of_a_file(stored, checkpoint, shipped_copy, tmp_path):
    folder, readers = stored(), {}
    for name in ("train/dataset.json", "train/all__inputs.npy", "identifiers.json", "train/tags.csv"):
        readers[f"set/{name}"] = lambda: load(folder)
    readers |= {"a.csv": lambda: sudoku.load_csv(tmp_path / "a.csv"), "m.csv": lambda: maze.load_csv(tmp_path / "m.csv"),
                "arc.json": lambda: arc.load(tmp_path / "arc.json"), "p.txt": lambda: read_puzzle(tmp_path / "p.txt"),
                "made.json": lambda: arc.score_submission(tmp_path / "made.json", []),
                "all_config.yaml": lambda: read_yaml(tmp_path / "all_config.yaml"), "b.pt": lambda: load_published(tmp_path / "b.pt"),
                "models/a/model.safetensors": lambda: shipped("a", folder=tmp_path / "models"),
                "models/a/config.json": lambda: shipped("a", folder=tmp_path / "models")}
    assert len(load(folder)) == 4
    for name, read in readers.items():
        kept = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else None
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
        refused(read, tmp_path / name, "pipe or device")
        (tmp_path / name).unlink()
        if kept is not None: (tmp_path / name).write_bytes(kept)


def test_a_device_in_place_of_a_file(stored):
    folder = stored()
    (folder / "train/dataset.json").unlink()
    (folder / "train/dataset.json").symlink_to("/dev/zero")
    refused(lambda: load(folder), "dataset.json", "pipe or device")


def test_aliases_in_yaml(tmp_path):
    "287 bytes that stand for 10^9 values."
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
    merge = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{','.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi"))
    for text in (bomb, merge, f"arch: {{name: [&a [1], *a]}}\n{bomb}"):
        (tmp_path / "all_config.yaml").write_text(text)
        refused(lambda: read_yaml(tmp_path / "all_config.yaml"), "all_config.yaml", "an alias")


@pytest.mark.parametrize("field", ["vocab_size", "seq_len", "num_puzzle_identifiers", "puzzle_emb_ndim", "hidden_size", "num_heads", "H_layers",
                                   "L_layers", "H_cycles", "L_cycles", "halt_max_steps", "puzzle_emb_len", "conv_size", "grid_rows"])
@pytest.mark.parametrize("value", [10 ** 30, 10 ** 9, True, 4.0, "4", None, float("nan")])
def test_sizes_of_a_configuration(field, value):
    refused(lambda: ReasonerConfig.from_dict(TINY.to_dict() | {field: value}), field)


@pytest.mark.parametrize("sizes", [dict(seq_len=2 ** 24), dict(vocab_size=2 ** 24, hidden_size=2 ** 10), dict(hidden_size=2 ** 20),
                                   dict(hidden_size=2 ** 14, H_layers=10 ** 4)])
def test_sizes_that_make_a_model_too_large_together(sizes):
    refused(lambda: ReasonerConfig.from_dict(TINY.to_dict() | sizes), "at most")


def test_huge_labels(stored):
    for value in (2 ** 40, 2 ** 32 + 2, -2 ** 40): refused(lambda: load(stored(labels=PARTS["labels"].astype(np.int64) + value)), "set/train")
    refused(lambda: PuzzleSet([[1, 2 ** 40]], [[1, 2 ** 40]]), "vocab_size")


# ---- named: memory

@pytest.mark.parametrize("shape", [(10 ** 9, 4), (4, 10 ** 12), (10 ** 30, 1), (2 ** 32, 2 ** 32), (-1, 4), (2 ** 63,)])
def test_headers_that_promise_more_than_there_is(tmp_path, shape):
    path = tmp_path / "a.npy"
    with open(path, "wb") as f:
        np.lib.format.write_array_header_1_0(f, dict(descr="<i8", fortran_order=False, shape=shape))
        f.write(bytes(64))
    refused(lambda: read_npy(path), "a.npy", "its header promises")


@pytest.mark.parametrize("field", ["vocab_size", "seq_len", "num_puzzle_identifiers", "total_groups", "pad_id", "ignore_label_id"])
@pytest.mark.parametrize("value", [10 ** 30, 2 ** 40, True, 1.0, "1", [1]])
def test_sizes_of_a_set(stored, field, value):
    refused(lambda: load(stored({field: value})), "dataset.json", field)


@pytest.mark.parametrize("changes", [dict(hidden_size=4096), dict(L_layers=10 ** 4), dict(vocab_size=2 ** 19), dict(expansion=900),
                                     dict(num_puzzle_identifiers=2 ** 23)])
def test_a_configuration_is_compared_before_a_model_is_made(checkpoint, shipped_copy, changes):
    path = checkpoint(changes)
    refused(lambda: load_published(path, puzzle_table="stored"), path)
    model = shipped_copy.about["model"] | changes
    refused(lambda: shipped("a", folder=shipped_copy(model=model)), "models/a")


@pytest.mark.parametrize("kind", [dict(), dict(mlp_t=True, pos_encodings="none"), dict(pos_encodings="learned"), dict(puzzle_emb_ndim=0), dict(mixing="conv", seq_len=9)], ids=str)
@pytest.mark.parametrize("arch", ["hrm", "trm", "transformer"])
def test_shapes_are_told_without_weights(arch, kind):
    sizes = dict(vocab_size=5, seq_len=4, hidden_size=16, num_heads=2, puzzle_emb_ndim=16, num_puzzle_identifiers=3) | kind
    config = getattr(ReasonerConfig, arch)(**sizes)
    assert weight_shapes(config) == {name: t.shape for name, t in Reasoner(config).state_dict().items()}


def test_shapes_of_every_recipe_are_told_without_weights():
    for recipe in RECIPES.values():
        if recipe.model.vocab_size * recipe.model.hidden_size < 2 ** 22:
            assert weight_shapes(recipe.model) == {name: t.shape for name, t in Reasoner(recipe.model).state_dict().items()}, recipe.about
        assert fair(lambda: weight_shapes(recipe.model))
    assert "sympy" not in set(_imported_by_shapes())


def _imported_by_shapes():
    "Modules of a fresh process that asks for shapes."
    code = ("import sys; from hrm_nb.published import weight_shapes; from hrm_nb.model import ReasonerConfig; "
            "weight_shapes(ReasonerConfig.hrm(vocab_size=11, seq_len=81)); print(*sys.modules, sep=chr(10))")
    env = os.environ | {"PYTHONPATH": str(Path(hrm_nb.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env, check=True).stdout.splitlines()


def test_files_larger_than_allowed(tmp_path):
    "Files with holes: they take no room on the disk."
    for name, most, read in (("a.json", MOST_JSON, read_json), ("b.json", 2 ** 20, lambda p: stored_json(p, 2 ** 20)), ("c.safetensors", MOST_TENSORS, load_tensors),
                             ("d.safetensors", MOST_TENSORS, tensor_state), ("e.pt", MOST_TENSORS, load_published)):
        path = tmp_path / name
        with open(path, "wb") as f:
            try: f.truncate(most + 1)
            except OSError: pytest.skip("no such large files on this file system")
        refused(lambda read=read, path=path: read(path), path, f"at most {most:,} are allowed")
        path.unlink()


@pytest.mark.parametrize("state", [None, "", "{", "[]", "7", "null", "[" * 10 ** 5, "1" * 5000], ids=lambda s: repr(s)[:12])
def test_tensor_files_without_their_state(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path, {"sha256": "0"} | ({} if state is None else {"state": state}))
    for read in (load_tensors, tensor_state): refused(lambda read=read: read(path), path, "state")
    save_file({"a": torch.ones(2)}, path)
    for read in (load_tensors, tensor_state): refused(lambda read=read: read(path), path, "none of ours")


@pytest.mark.parametrize("wrong", [torch.full((8,), torch.nan), torch.full((8,), torch.inf), torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.bool)], ids=str)
def test_weights_of_a_run_that_are_no_finite_numbers(tmp_path, wrong):
    model = Reasoner(TINY)
    run = create_run(tmp_path / "run", dict(model=TINY.to_dict()), {})
    for name, weights in (("final", model.state_dict()), ("best", model.state_dict() | {"L_init": wrong})): save_model(run, name, 1, weights)
    assert fair(lambda: run.model("final")).config == TINY
    refused(lambda: run.model("best"), "best/model.safetensors", "L_init")


def test_a_file_that_grows_on_being_unpacked(checkpoint, tmp_path):
    path, packed = checkpoint(), tmp_path / "packed.pt"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for part in whole.namelist(): out.writestr(part, whole.read(part) + bytes(2 ** 22))
    refused(lambda: load_published(packed), packed, "unpacks to more")
    refused(lambda: load_published(checkpoint(L_init=torch.zeros(1).expand(10 ** 5, 10 ** 6))), "published.pt", "its tensors claim")


# ---- named: accepted but wrong

@pytest.mark.parametrize("wrong", [torch.full((8,), torch.nan), torch.full((8,), torch.inf), torch.zeros(8, dtype=torch.complex64),
                                   torch.zeros(8).to_sparse(), torch.zeros(8, device="meta"), torch.zeros(8, dtype=torch.int64),
                                   torch.zeros(8, dtype=torch.bool)], ids=str)
def test_weights_that_are_no_finite_numbers(checkpoint, wrong):
    assert load_published(checkpoint()).config == TINY
    path = checkpoint(L_init=wrong)
    refused(lambda: load_published(path), path, "L_init")


@pytest.mark.parametrize("table", ["stored", "mean"])
@pytest.mark.parametrize("wrong", [torch.full((3, 8), torch.nan), torch.zeros(3, 8, dtype=torch.complex64), torch.zeros(()), torch.zeros(3)], ids=str)
def test_puzzle_tables_that_are_no_finite_numbers(checkpoint, table, wrong):
    refused(lambda: load_published(checkpoint(puzzle_emb__weights=wrong), puzzle_table=table), "published.pt", "puzzle")


@pytest.mark.parametrize("field", ["rope_theta", "rms_norm_eps", "expansion", "halt_exploration_prob"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 5e-324, 1e300, True, "1"])
def test_numbers_of_a_configuration(field, value):
    if (field, value) == ("halt_exploration_prob", 5e-324): return
    refused(lambda: ReasonerConfig.from_dict(TINY.to_dict() | {field: value}), field)


@pytest.mark.parametrize("rating", ["nan", "inf", "-inf", "1e999", "NaN"])
def test_ratings_that_are_no_numbers(tmp_path, rating):
    row = sudoku.generate(1, box=(2, 2), seed=0)
    question, answer = ["".join(row.domain.symbols[t] for t in tokens[0]) for tokens in (row.inputs, row.labels)]
    (tmp_path / "a.csv").write_text(f"source,question,answer,rating\nme,{question},{answer},{rating}\n")
    refused(lambda: sudoku.load_csv(tmp_path / "a.csv"), "a.csv", "row 0: the rating is")


def test_unsigned_labels_that_wrap_round(stored):
    same = load(stored()).hash
    for kind, more in (("<u8", 2 ** 32), ("<u4", 2 ** 32 - 2 ** 16), ("<u8", 2 ** 63)):
        labels = PARTS["labels"].astype(kind)
        assert load(stored(labels=labels)).hash == same
        labels[0, 0] += np.array(more, kind)
        refused(lambda labels=labels: load(stored(labels=labels)), "set/train")
        refused(lambda labels=labels: PuzzleSet(PARTS["inputs"], labels, domain=grid_domain(5, 4)), "puzzle set")


@pytest.mark.parametrize("key", ["puzzle_indices", "group_indices"])
def test_unsigned_indices_that_wrap_round(stored, key):
    for wrong in ([0, 200, 100, PARTS[key][-1]], [1, 2, PARTS[key][-1]], [0, 2 ** 64 - 1, 1, 4]):
        for bad_rows in ("raise", "drop"):
            refused(lambda wrong=wrong, bad_rows=bad_rows: load(stored(**{key: np.array(wrong, np.uint64)}), bad_rows), "set/train")


@pytest.mark.parametrize("name", ["../train/all", "../../outside", "/tmp/all", "a/b", "a\\b", "..", "", "a\0b", "x" * 300, 7])
def test_names_that_climb_out_of_the_folder(stored, tmp_path, name):
    folder = stored({"sets": [name]})
    refused(lambda: load(folder), "dataset.json", "sets")
    whole = load(stored())
    if isinstance(name, str):
        refused(lambda: PuzzleSet.load(folder, name), "the split is")
        refused(lambda: whole.save(tmp_path / "out", name), "the split is")
        refused(lambda: arc.task_from_dict(name, {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}), "name of a task")
    refused(lambda: whole.replace(metadata=dict(sets=[name])).save(tmp_path / "out", "train"), "sets")
    assert not (tmp_path / "out").exists() and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("names", [{}, "abc", ["<blank>", "a"], [1, 2, 3], [["a"]] * 3, None, True])
def test_names_of_identifiers(stored, names):
    refused(lambda: load(stored(names=names)), "identifiers.json")


def test_two_parts_of_one_name(stored):
    refused(lambda: load(stored({"sets": ["all", "all"]})), "dataset.json", "different names")


@pytest.mark.parametrize("attempts", [{"attempt_1": [[1]], "attempt_2": [[1]], "attempt_3": [[2]]}, {"guess": [[2]]}, {"attempt_1": [[True]]},
                                      {"attempt_1": [[2.0]]}, {"attempt_1": None}, {"attempt_1": []}])
def test_submissions_in_another_form(tmp_path, attempts):
    task = arc.task_from_dict("t", {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]], "output": [[2]]}]})
    (tmp_path / "made.json").write_text(json.dumps({"t": [attempts]}))
    refused(lambda: arc.score_submission(tmp_path / "made.json", [task]), "task t")


@pytest.mark.parametrize("key", ["identifiers", "puzzle_indices", "group_indices"])
def test_floats_are_not_cut_to_whole_numbers(stored, key):
    arguments = dict(identifiers=[0, 1], puzzle_indices=[0, 1, 2], group_indices=[0, 1, 2])
    wrong = arguments | {key: np.array(arguments[key]) + .4}
    refused(lambda: PuzzleSet([[1], [2]], [[1], [2]], **wrong), key)
    on_disk = dict(identifiers="puzzle_identifiers").get(key, key)
    refused(lambda: load(stored(**{on_disk: PARTS[on_disk] + .4})), f"all__{on_disk}.npy")


# ---- named: unclear

@pytest.mark.parametrize("index", [[0, 5, 3], [0, 2, 9], [0, 0, 3], [0], [3, 0], [0, 2, 2, 3]])
def test_broken_groups_while_rows_are_dropped(stored, index):
    bad = PARTS["inputs"].copy()
    bad[1, 1] = 99
    for inputs in (bad, PARTS["inputs"]):
        for bad_rows in ("raise", "drop"):
            refused(lambda i=inputs, b=bad_rows: load(stored(inputs=i, group_indices=np.array(index)), b), "set/train", "group_indices")


@pytest.mark.parametrize("text", ["[" * 10 ** 5, "{\"a\":" * 10 ** 5, "1" * 5000, "1e400", "{", "", "\x00", "\"\\ud800\"", "[]", "7", "null"])
def test_json_that_is_deep_or_huge(stored, shipped_copy, tmp_path, text):
    folder = stored()
    (folder / "train/dataset.json").write_text(text)
    refused(lambda: load(folder), "dataset.json")
    refused(lambda: shipped("a", folder=shipped_copy(text)), "config.json")
    (tmp_path / "t.json").write_text(text)
    refused(lambda: arc.load(tmp_path / "t.json"), "t.json")


def test_whole_numbers_too_long_to_be_shown():
    for value in (10 ** 5000, -10 ** 5000): refused(lambda value=value: ReasonerConfig.from_dict(TINY.to_dict() | {"seq_len": value}), "seq_len")
    deep = []
    for _ in range(10 ** 5): deep = [deep]
    refused(lambda: ReasonerConfig.from_dict(TINY.to_dict() | {"seq_len": deep}), "seq_len")
    for values in ([], None, 7, "x", [1]):
        for cls in (ReasonerConfig, TrainConfig, PatternData): refused(lambda cls=cls, values=values: from_values(cls, values), cls.__name__)


def test_tags_and_metadata_of_another_type(stored):
    rows = dict(inputs=[[1]], labels=[[1]])
    for tags in ([1], {"a": [1]}, pd.Series([1]), "x"): refused(lambda tags=tags: PuzzleSet(**rows, tags=tags), "puzzle set: tags are a")
    for meta in ([1], "x", 7): refused(lambda meta=meta: PuzzleSet(**rows, metadata=meta), "puzzle set: metadata is a")
    for meta in (dict(num_puzzle_identifiers="3"), dict(total_groups=True), dict(sets="all"), dict(identifier_names={}), dict(dtypes=[1])):
        refused(lambda meta=meta: PuzzleSet(**rows, metadata=meta), "puzzle set", next(iter(meta)))
    folder = stored()
    (folder / "train/tags.csv").write_text("a\n1\n")
    for bad_rows in ("raise", "drop"): refused(lambda b=bad_rows: load(folder, b), "set/train", "tags")
    (folder / "train/tags.csv").write_text("," * 10 ** 6)
    refused(lambda: load(folder), "tags.csv", "first line")


def test_messages_name_the_file(tmp_path, stored):
    wide = stored(dict(seq_len=5), inputs=np.ones((4, 5), int), labels=np.ones((4, 5), int))
    refused(lambda: sudoku.load(wide, "train"), "set/train", "5 cells")
    refused(lambda: maze.load(stored(dict(vocab_size=6, seq_len=5), inputs=np.ones((4, 5), int), labels=np.ones((4, 5), int)), "train"), "set/train")
    (tmp_path / "tasks_challenges.json").write_text(json.dumps({"t": {"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}}))
    (tmp_path / "tasks_solutions.json").write_text('{"t": 7}')
    refused(lambda: arc.load(tmp_path / "tasks_challenges.json"), "tasks_solutions.json", "task t")


def test_a_record_that_lacks_its_parts(shipped_copy):
    for changes in (dict(data=[]), dict(data={}), dict(data={"class": 7, "fields": {}}), dict(data={"class": "hrm_nb.recipes.PatternData", "fields": []}),
                    dict(data={"class": "os.path.join", "fields": {}}), dict(data={"class": "hrm_nb.no.Such", "fields": {}}),
                    dict(data={"class": "hrm_nb.recipes.PatternData", "fields": {"size": 10 ** 9, "train": 1, "test": 1}})):
        folder = shipped_copy(**changes)
        refused(lambda folder=folder: shipped_puzzles("a", 2, folder=folder), "a/config.json")
    for changes in (dict(scores=[]), dict(scores={}), dict(data={"domain": 7})): refused(lambda c=changes: shipped_models(shipped_copy(**c)), "a/config.json")
    for model in ([], {}, 7, None, {"depth": 4}): refused(lambda m=model: shipped("a", folder=shipped_copy(model=m)), "a/config.json")


# ---- generated

CASES = 2000  # at least; those of a test that runs with several parameters are counted once


def test_there_are_enough_cases():
    source = Path(__file__).read_text(encoding="utf-8")
    counts = [int(ast.unparse(node.args[0])) for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.Call) and ast.unparse(node.func) == "every"]
    assert sum(counts) >= CASES, sum(counts)


NASTY = st.sampled_from([True, False, None, 0, -1, 1, 2 ** 31, 2 ** 40, 10 ** 9, 10 ** 30, -10 ** 30, float("nan"), float("inf"), 1e308, 5e-324, .5, 2.0, "",
                         "3", "../x", "\0", [], {}, [[]], [1, "a"], {"a": 1}, [True], "\ud800", 10 ** 4000])
VALUES = NASTY | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                              lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=4), max_leaves=8)


def changed(values):
    "A dict with one to three of its values replaced, taken out or added."
    edits = st.lists(st.tuples(st.sampled_from(sorted(values)) | st.text(max_size=6), VALUES | st.just(...)), min_size=1, max_size=3)
    return edits.map(lambda found: {k: v for k, v in (values | dict(found)).items() if v is not ...})


def damaged(whole):
    "Bytes cut short, lengthened, or with some of them changed."
    places = st.lists(st.tuples(st.integers(0, max(0, len(whole) - 1)), st.integers(0, 255)), max_size=6)
    def damage(at, end, more):
        raw = bytearray(whole)
        for place, byte in at: raw[place] = byte
        return bytes(raw[:end]) + more
    return st.builds(damage, places, st.just(len(whole)) | st.integers(0, len(whole)), st.just(b"") | st.binary(max_size=9))


def test_any_configuration_of_a_model():
    def one(values):
        made = fair(lambda: ReasonerConfig.from_dict(values))
        if not isinstance(made, str): assert made.to_dict() == ReasonerConfig(vocab_size=5, seq_len=4).to_dict() | values and made.length * made.hidden_size <= 2 ** 24
    every(300, changed(TINY.to_dict()), one)
    every(60, VALUES, lambda values: isinstance(fair(lambda: ReasonerConfig.from_dict(values), "ReasonerConfig"), str))


def test_any_configuration_of_a_training():
    whole = TrainConfig(steps=2).to_dict()
    every(200, changed(whole), lambda values: fair(lambda: TrainConfig.from_dict(values)))


@pytest.mark.parametrize("cls", [PatternData, MazeData, SudokuData, ArcData])
def test_any_settings_of_data(cls):
    every(60, changed(dict(vars(cls()))), lambda values: fair(lambda: from_values(cls, values)))


def test_any_domain():
    whole = json.loads(json.dumps(describe_domain(sudoku.domain((2, 2)))))
    every(100, changed(whole), lambda described: fair(lambda: restore_domain(described)))


def test_any_description_of_a_set(stored):
    folder = stored()
    same = load(folder)

    def one(case):
        values, bad_rows = case
        (folder / "train/dataset.json").write_text(json.dumps(values))
        read = fair(lambda: load(folder, bad_rows), "dataset.json", "set/train")
        if not isinstance(read, str): assert (read.inputs == same.inputs).all() and len(read) == len(same)
    every(250, st.tuples(changed(SET) | VALUES, st.sampled_from(["raise", "drop"])), one)


def test_any_names_of_identifiers(stored):
    folder = stored()

    def one(names):
        (folder / "identifiers.json").write_text(json.dumps(names))
        read = fair(lambda: load(folder), "identifiers.json")
        if not isinstance(read, str): assert read.metadata["identifier_names"] == names
    every(80, VALUES | st.lists(st.text(max_size=3), max_size=5), one)


@pytest.mark.parametrize("key", sorted(PARTS))
def test_any_bytes_of_an_array(stored, key):
    folder = stored()
    file, same = folder / f"train/all__{key}.npy", load(folder)

    def one(case):
        raw, bad_rows = case
        file.write_bytes(raw)
        read = fair(lambda: load(folder, bad_rows), "set/train", "identifiers.json")
        if isinstance(read, str): return
        now = np.load(file)
        if key in ("inputs", "labels"): assert bad_rows == "drop" or getattr(read, key)[read.labels != -100].tolist() == now[now != 0].tolist() or key == "inputs"
        else: assert bad_rows == "drop" or getattr(read, key, read.identifiers[read.puzzle_indices[:-1]]).tolist() == now.tolist()
        assert len(read) <= len(same) or key in ("puzzle_indices",)
    every(60, st.tuples(damaged(file.read_bytes()) | st.binary(max_size=200), st.sampled_from(["raise", "drop"])), one)


@pytest.mark.parametrize("key", sorted(PARTS))
def test_any_header_of_an_array(stored, key):
    folder = stored()
    file = folder / f"train/all__{key}.npy"
    kinds = st.sampled_from(["<i1", "<u1", "<i4", ">i2", "<u8", "<i8", "<f4", "<c16", "|b1", "|O", "|V8", "<U4", "<M8[s]", "|S1000000000"])
    sizes = st.lists(st.sampled_from([0, 1, 3, 4, -1, 10 ** 9, 2 ** 31, 2 ** 62, 10 ** 30]) | st.integers(-5, 50), max_size=4).map(tuple)

    def one(case):
        kind, shape, order, data = case
        f = io.BytesIO()
        np.lib.format.write_array_header_1_0(f, dict(descr=kind, fortran_order=order, shape=shape))
        file.write_bytes(f.getvalue() + data)
        fair(lambda: load(folder), "set/train", "identifiers.json")
    every(50, st.tuples(kinds, sizes, st.booleans(), st.binary(max_size=80)), one)


@pytest.mark.parametrize("room, made", [(sudoku, lambda: sudoku.generate(3, box=(2, 2), seed=0)), (maze, lambda: maze.generate(3, size=5, min_path=4, seed=0))],
                         ids=["sudoku", "maze"])
def test_any_csv_file(room, made, tmp_path):
    puzzles, file = made(), tmp_path / "a.csv"
    grids = [["".join(puzzles.domain.symbols[t] for t in row) for row in a] for a in (puzzles.inputs, puzzles.labels)]
    file.write_text("source,question,answer,rating\n" + "".join(f"me,{q},{a},\n" for q, a in zip(*grids)))
    assert (room.load_csv(file).inputs == puzzles.inputs).all()

    def one(case):
        raw, bad_rows = case
        file.write_bytes(raw)
        read = fair(lambda: room.load_csv(file, bad_rows=bad_rows), "a.csv")
        if not isinstance(read, str): assert not read.domain.problems(read.inputs, read.labels)
        fair(lambda: read_csv(file, puzzles.domain, {".": 1}, {"1": 2}), "a.csv")
    every(120, st.tuples(damaged(file.read_bytes()) | st.binary(max_size=99), st.sampled_from(["raise", "drop"])), one)


TASK = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}], "test": [{"input": [[3]], "output": [[4]]}]}


def nested(value):
    "JSON with one of its values, at any depth, replaced."
    def places(v, path=()):
        yield path
        for k, inner in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else (): yield from places(inner, (*path, k))
    def put(v, path, new):
        if not path: return new
        copy = v.copy()
        copy[path[0]] = put(v[path[0]], path[1:], new)
        return copy
    return st.tuples(st.sampled_from(list(places(value))), VALUES).map(lambda case: put(value, *case))


def test_any_arc_file(tmp_path):
    file = tmp_path / "t.json"

    def one(case):
        raw, bad_tasks = case
        file.write_bytes(raw)
        read = fair(lambda: arc.load(file, bad_tasks=bad_tasks), "t.json")
        if not isinstance(read, str): assert all(grid.max() <= 9 for task in read for pair in task.train for grid in pair)
    raws = (nested(TASK) | nested({"a": TASK, "b": TASK})).map(lambda v: json.dumps(v).encode()) | damaged(json.dumps(TASK).encode())
    every(150, st.tuples(raws, st.sampled_from(["raise", "drop"])), one)


def test_any_submission(tmp_path):
    task = arc.task_from_dict("t", TASK)

    def one(made):
        (tmp_path / "made.json").write_text(json.dumps(made))
        table = fair(lambda: arc.score_submission(tmp_path / "made.json", [task]))
        if not isinstance(table, str): assert table.score[0] == (made.get("t", []) != [] and [[4]] in made["t"][0].values())
    every(120, nested({"t": [{"attempt_1": [[4]], "attempt_2": [[1]]}]}), one)


def test_any_puzzle_as_text(tmp_path):
    lines = st.lists(st.text("0123456789.#SG o|-_{}[]\",:", max_size=12), max_size=12).map("\n".join)
    def one(text):
        made = fair(lambda: read_puzzle(text))
        if not isinstance(made, str): assert len(made) and not made.domain.problems(made.inputs, made.labels)
    every(200, lines | st.text(max_size=60), one)
    file = tmp_path / "p.txt"

    def from_file(raw):
        file.write_bytes(raw)
        fair(lambda: read_puzzle(file), "p.txt")
    every(100, st.binary(max_size=99) | nested(TASK).map(lambda v: json.dumps(v).encode()) | lines.map(str.encode), from_file)


@pytest.mark.parametrize("text", ["#" * 999_000, "1" * 999_000, "1 " * 499_000, "\n".join(["12"] * 300_000), "." * 81 + "\n" * 900_000, "[" * 999_000,
                                  "source,question\n" + "a" * 900_000, "#S G\n" * 200_000, ("." * 81 + "\n") * 12_000, '{"train":[' + "[" * 500_000], ids=lambda t: repr(t[:18]))
def test_long_texts(tmp_path, text):
    (tmp_path / "p.txt").write_text(text)
    refused(lambda: read_puzzle(tmp_path / "p.txt"), "p.txt")


def test_any_bytes_of_a_checkpoint(checkpoint):
    path = checkpoint()
    whole = path.read_bytes()

    def one(raw):
        path.write_bytes(raw)
        made = fair(lambda: load_published(path), path)
        if not isinstance(made, str): assert all(torch.isfinite(v).all() for v in made.state_dict().values())
    every(200, damaged(whole) | st.binary(max_size=200) | damaged(whole[:2000]), one)


def test_any_tensors_of_a_checkpoint(checkpoint):
    types = st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.complex64, torch.bool])
    sizes = st.lists(st.integers(0, 9), max_size=3)
    forms = st.sampled_from([lambda t: t, lambda t: t.to_sparse() if t.ndim and t.dtype != torch.bool else t, lambda t: t.to("meta"),
                             lambda t: t.expand(10 ** 6, *t.shape), lambda t: 7, lambda t: [t], lambda t: t * float("nan") if t.is_floating_point() else t])
    names = st.sampled_from([k.replace(".", "__") for k in Reasoner(TINY).state_dict()] + ["other"])

    def one(case):
        name, size, kind, form, config = case
        path = checkpoint(config, **{name: form(torch.ones(size, dtype=kind))})
        made = fair(lambda: load_published(path), path)
        if not isinstance(made, str): assert all(torch.isfinite(v).all() for v in made.state_dict().values())
    few = st.dictionaries(st.sampled_from(sorted(TINY.to_dict())), NASTY, max_size=1)
    every(100, st.tuples(names, sizes, types, forms, few), one)


def test_any_yaml_beside_a_checkpoint(checkpoint, tmp_path):
    import yaml
    arch = {k: v for k, v in TINY.to_dict().items() if k not in ("arch", "vocab_size", "seq_len", "num_puzzle_identifiers")}
    whole = yaml.safe_dump({"arch": arch | {"name": "a@HierarchicalReasoningModel_ACTV1"}, "data_path": "x"}).encode()
    torch.save(Reasoner(TINY).state_dict(), tmp_path / "step_1")
    beside = tmp_path / "all_config.yaml"
    beside.write_bytes(whole)
    assert load_published(tmp_path / "step_1", seq_len=4).config == TINY

    def one(raw):
        beside.write_bytes(raw)
        fair(lambda: load_published(tmp_path / "step_1", seq_len=4), beside, tmp_path / "step_1")
    texts = st.text("ab:-[]{}&*!<>|'\" \n019.", max_size=60).map(str.encode)
    every(120, damaged(whole) | texts | st.binary(max_size=60), one)


def test_any_folder_of_a_shipped_model(shipped_copy):
    about = shipped_copy.about

    def one(case):
        part, value = case
        folder = shipped_copy(**({part: value} if part else value if isinstance(value, dict) else {"model": value}))
        for read in (lambda: shipped("a", folder=folder), lambda: shipped_models(folder)): fair(read, "models/a")
    cases = st.sampled_from(["model", "data", "scores", "recipe"]).flatmap(
        lambda part: st.tuples(st.just(part), changed(about[part]) if isinstance(about[part], dict) else VALUES))
    every(50, cases, one)
    fields = changed(about["data"]["fields"])
    every(40, fields, lambda f: fair(lambda: shipped_puzzles("a", 2, folder=shipped_copy(data=about["data"] | {"fields": f})), "config.json"))


def test_any_bytes_of_shipped_weights(shipped_copy):
    folder = shipped_copy()
    file = folder / "a/model.safetensors"
    whole = file.read_bytes()

    def one(raw):
        file.write_bytes(raw)
        made = fair(lambda: shipped("a", folder=folder), file)
        if not isinstance(made, str): assert raw == whole
    every(60, damaged(whole) | st.binary(max_size=99), one)
