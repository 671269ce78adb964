"Run folders: what is written survives full disks, damage and foreign files."
import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hrm_nb import files
from hrm_nb.runs import (Checkpoint, checkpoint_name, create_run, environment, keep_newest, load_checkpoint, load_hub, load_published, load_tensors,
                         newest_checkpoint, read_json, runs, save_checkpoint, save_model, save_tensors, write_history, write_json)


@pytest.fixture
def model(tiny_model): return tiny_model()


@pytest.fixture
def run(tmp_path, model):
    "A run with checkpoints at 2 and 4."
    run = create_run(tmp_path / "run", dict(model=model.config.to_dict(), train={}, data={}), environment(seed=0))
    for step in (2, 4): checkpoint(run, step, model)
    return run


def checkpoint(run, step, model, averaged=None):
    return save_checkpoint(run, Checkpoint(step, model.state_dict(), {"x": torch.full((5,), float(step))}, {"step": step}, averaged))


def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(Path(folder).rglob("*")) if f.is_file()}


# ---- failing writes

@pytest.mark.parametrize("files_before", [0, 1, 2])
def test_a_full_disk_leaves_the_earlier_checkpoint(run, model, monkeypatch, files_before):
    "The space runs out at the first, second or third file of a checkpoint, after part of it was written."
    before, real_save, calls = contents(run.path), files.save_file, []
    def failing(tensors, path, metadata):
        calls.append(path)
        if len(calls) <= files_before: return real_save(tensors, path, metadata)
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files, "save_file", failing)
    with pytest.raises(OSError) as e: checkpoint(run, 6, model, averaged=model.state_dict())
    message = str(e.value)
    assert "No space left on device" in message and str(run.path / "checkpoints/step_000006") in message and "\n" not in message
    assert contents(run.path) == before                                   # no part of it remains either
    assert newest_checkpoint(run)[0].step == 4
    monkeypatch.undo()
    checkpoint(run, 6, model)
    assert newest_checkpoint(run)[0].step == 6


def test_a_full_disk_leaves_best_and_history(run, model, monkeypatch):
    save_model(run, "best", 4, model.state_dict())
    write_history(run, [dict(step=4, train_loss=1.0)])
    before = contents(run.path)
    def full(*args): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files, "save_file", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="best.*No space left on device"): save_model(run, "best", 6, model.state_dict())
    with pytest.raises(OSError, match="training_history.json.*No space left on device"): write_history(run, [])
    assert contents(run.path) == before


def test_files_change_in_one_move(run, model, tiny_model, monkeypatch):
    "Where the last move into place fails, everything is as it was: nothing is written under a file's own name."
    save_model(run, "best", 2, model.state_dict()), write_history(run, [dict(step=2)])
    before, other = contents(run.path), tiny_model(seed=7)
    def refuse(*args): raise OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(os, "replace", refuse)
    for write in (lambda: save_model(run, "best", 4, other.state_dict()), lambda: write_history(run, [dict(step=4)]), lambda: checkpoint(run, 4, other)):
        with pytest.raises(OSError, match="Input/output error"): write()
        assert contents(run.path) == before


def test_a_checkpoint_written_again(run, model, monkeypatch):
    "As when a signal comes at a step whose checkpoint was just written, and the move of the new folder fails or never comes."
    before, move = contents(run.path), os.replace
    def refuse(source, target):
        if Path(target).name == "step_000004": raise OSError(errno.EIO, "Input/output error")
        move(source, target)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="earlier checkpoints are unchanged"): checkpoint(run, 4, model)
    assert contents(run.path) == before


def in_child(function, *args):
    "What `function` returned or raised in a process of its own, which may give up rights that this one keeps."
    receiver, sender = multiprocessing.Pipe(duplex=False)
    if (child := os.fork()) == 0:
        try: sender.send(("returned", function(*args)))
        except BaseException as e: sender.send((type(e).__name__, str(e)))
        os._exit(0)
    sender.close()
    said = receiver.recv()
    os.waitpid(child, 0)
    return said


def small_files_only(run, model):
    "The system itself refuses to let files grow beyond 4 kB."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    checkpoint(run, 6, model)


def test_the_system_refuses_to_write(run, model):
    "As above with the real library and a real limit on file size in place of a full disk."
    before = contents(run.path)
    kind, message = in_child(small_files_only, run, model)
    assert kind == "OSError" and "step_000006" in message and "earlier checkpoints are unchanged" in message
    assert contents(run.path) == before


def as_nobody(function, *args):
    if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
    function(*args)


def test_an_unwritable_folder(model):
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o755)
        run = create_run(f"{tmp}/run", dict(model=model.config.to_dict(), train={}, data={}), {})
        checkpoint(run, 2, model)
        folders = [run.path, *(p for p in run.path.rglob("*") if p.is_dir())]
        for f in folders: f.chmod(0o555)
        before = contents(tmp)
        for function, args, named in ((checkpoint, (run, 4, model), "step_000004"), (save_model, (run, "best", 4, model.state_dict()), "best"),
                                      (write_history, (run, []), "training_history.json"), (create_run, (run.path / "new", {}, {}), "new")):
            kind, message = in_child(as_nobody, function, *args)
            assert kind == "OSError" and named in message and "Permission denied" in message and "\n" not in message, (kind, message)
        assert contents(tmp) == before and newest_checkpoint(run)[0].step == 2
        for f in folders: f.chmod(0o755)


# ---- damage

def damage(file, how):
    data = file.read_bytes()
    if how == "removed": file.unlink()
    elif how == "empty": file.write_bytes(b"")
    elif how == "cut": file.write_bytes(data[:len(data) * 2 // 3])
    elif how == "header": file.write_bytes(data[:20] + b"\xff" + data[21:])
    elif how == "length": file.write_bytes(b"\xff" * 8 + data[8:])
    else: file.write_bytes(data[:-7] + bytes([data[-7] ^ 16]) + data[-6:])  # one bit of one weight


@pytest.mark.parametrize("how", ["removed", "empty", "cut", "header", "length", "bit"])
@pytest.mark.parametrize("file", ["model", "training", "averaged"])
def test_a_damaged_newest_checkpoint_falls_back(run, model, how, file):
    for step in (6, 8): checkpoint(run, step, model, averaged=model.state_dict())
    assert newest_checkpoint(run)[0].step == 8 and newest_checkpoint(run)[1] == []
    damage(run.path / f"checkpoints/step_000008/{file}.safetensors", how)
    newest, passed = newest_checkpoint(run)
    assert newest.step == newest.state["step"] == 6 and newest.training["x"].tolist() == [6.] * 5 and newest.averaged is not None
    assert len(passed) == 1 and f"step_000008/{file}.safetensors" in passed[0]
    assert all(torch.equal(v, newest.model[k]) for k, v in model.state_dict().items())


def test_all_checkpoints_damaged(run):
    for step in (2, 4): damage(run.path / f"checkpoints/{checkpoint_name(step)}/model.safetensors", "bit")
    with pytest.raises(ValueError, match=r"nothing to resume from.*step_000004.*step_000002"): newest_checkpoint(run)


def test_the_state_is_under_the_digest_too(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"w": torch.arange(3.)}, {"step": 7})
    data = (tmp_path / "a.safetensors").read_bytes()
    assert data.count(b'\\"step\\": 7') == 1
    (tmp_path / "a.safetensors").write_bytes(data.replace(b'\\"step\\": 7', b'\\"step\\": 8'))
    with pytest.raises(ValueError, match="do not match their sha256"): load_tensors(tmp_path / "a.safetensors")


def test_tensors_of_every_type_come_back(tmp_path):
    g = torch.Generator().manual_seed(0)
    tensors = {str(t): torch.randn(3, 5, generator=g).to(t) for t in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32,
                                                                      torch.int64, torch.uint8, torch.bool)}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "turned": torch.arange(6.).view(2, 3).T, "nan": torch.tensor([float("nan")])}
    save_tensors(tmp_path / "a.safetensors", tensors, {"deep": {"list": [1, None, "x"]}})
    back, state = load_tensors(tmp_path / "a.safetensors")
    assert state == {"deep": {"list": [1, None, "x"]}} and back.keys() == tensors.keys()
    for k, v in tensors.items(): assert back[k].dtype == v.dtype and torch.equal(back[k].nan_to_num(), v.nan_to_num()), k


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file
    save_file({"w": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="foreign.safetensors.*none of ours"): load_tensors(tmp_path / "foreign.safetensors")


# ---- the folder

def test_the_newest_are_kept(run, model):
    for step in range(6, 20, 2): checkpoint(run, step, model)
    for name in ("best", "final"): save_model(run, name, 18, model.state_dict())
    keep_newest(run, 0)
    assert len(run.checkpoints) == 11
    keep_newest(run, 3)
    assert run.checkpoints.name.tolist() == ["best", "final", "step_000014", "step_000016", "step_000018"]
    assert run.checkpoints.step.tolist() == [18, 18, 14, 16, 18]


def test_a_million_steps(run, model):
    for step in (999_998, 1_000_000): checkpoint(run, step, model)
    assert newest_checkpoint(run)[0].step == 1_000_000
    keep_newest(run, 1)
    assert run.checkpoints.step.tolist() == [1_000_000]


def test_a_checkpoint_of_averaged_weights(run, model, tiny_model):
    other = tiny_model(seed=5)
    checkpoint(run, 6, model, averaged=other.state_dict())
    assert torch.equal(run.model(6).lm_head.weight, other.lm_head.weight) and torch.equal(run.model(4).lm_head.weight, model.lm_head.weight)
    assert torch.equal(load_checkpoint(run.path / "checkpoints/step_000006").model["lm_head.weight"], model.lm_head.weight)


def test_a_used_folder_is_refused(run, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a run"): create_run(run.path, {}, {})
    with pytest.raises(FileExistsError, match="not an empty folder"): create_run(tmp_path, {}, {})
    with pytest.raises(OSError, match="config.json"): create_run(run.path / "config.json", {}, {})
    assert contents(tmp_path) == before


def test_history_round_trips(run):
    rows = [dict(step=1, a=1.5), dict(step=2, a=float("nan"), b=2.0), dict(step=3, a=float("inf"), b=3.0, stopped="why")]
    write_history(run, rows)
    h = run.history
    assert h.step.tolist() == [1, 2, 3] and h.a.dropna().tolist() == [1.5] and h.b.dropna().tolist() == [2, 3] and h.stopped[2] == "why"
    json.loads((run.path / "training_history.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    (run.path / "training_history.json").write_text('{"step": [1, 2')
    with pytest.raises(ValueError, match="training_history.json.*cut short"): run.history


def test_json_files_that_are_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json"): read_json(tmp_path / "absent.json")
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": (1, 2)})
    assert read_json(tmp_path / "a.json") == {"x": None, "y": [1, 2]}


def test_json_files_that_are_no_text(tmp_path):
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="b.json"): read_json(tmp_path / "b.json")


def test_listing(run, tmp_path):
    write_history(run, [dict(step=1, train_lm_loss=2.0), dict(step=2, train_lm_loss=1.0, test_exact_accuracy=.5), dict(step=3, train_lm_loss=None)])
    (tmp_path / "other").mkdir(); (tmp_path / "other/config.json").write_text('{"not": "a run"}')
    table = runs(tmp_path)
    assert table[["path", "step", "train_lm_loss", "test_exact_accuracy", "checkpoints"]].to_dict("records") == [
        dict(path="run", step=3, train_lm_loss=1.0, test_exact_accuracy=.5, checkpoints=2)]
    assert len(runs(tmp_path / "nowhere")) == 0


@pytest.mark.parametrize("text", ["{", "3"])
def test_listing_beside_a_damaged_run(run, tmp_path, text):
    (tmp_path / "other").mkdir(); (tmp_path / "other/config.json").write_text(text)
    assert runs(tmp_path).path.tolist() == ["run"]


@pytest.mark.parametrize("file, texts", [("config.json", ["{}", "[]", '{"train": {}}', '{"model": []}', '{"model": {}, "data": 3}', "7", "null", ""]),
                                         ("environment.json", ["[]", "3", '"a"', "null", ""]),
                                         ("training_history.json", ["[]", '{"a": [1]}', '{"step": [1], "a": []}', '{"step": 3}', ""])])
def test_files_of_another_shape(run, tmp_path, file, texts):
    "One line that names the file, and no other run is hidden by it."
    other = create_run(tmp_path / "other", run.config, {"seed": 3})
    write_history(other, [dict(step=1, train_lm_loss=2.0)])
    for text in texts:
        (run.path / file).write_text(text)
        with pytest.raises(ValueError) as e: {"config.json": lambda: run.config, "environment.json": lambda: run.environment}.get(file, lambda: run.history)()
        assert str(run.path / file) in str(e.value) and "\n" not in str(e.value)
        table = runs(tmp_path, damaged=True)
        assert table[table.problem == ""].path.tolist() == ["other"] and file in table[table.path == "run"].problem.item()


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o007, 0o660), (0o002, 0o664)])
def test_written_files_have_the_mode_that_the_umask_leaves(tmp_path, model, umask, mode):
    "safetensors writes a file that only its owner may read; colleagues on a shared machine want to read runs."
    before = os.umask(umask)
    try:
        run = create_run(tmp_path / "run", dict(model=model.config.to_dict()), environment(seed=0))
        for _ in range(2): checkpoint(run, 2, model, averaged=model.state_dict()); save_model(run, "best", 2, model.state_dict()); write_history(run, [])
    finally: os.umask(before)
    found = {str(p.relative_to(run.path)): p.stat().st_mode & 0o777 for p in run.path.rglob("*") if p.is_file()}
    assert len(found) == 7 and set(found.values()) == {mode}, found


def test_a_half_written_file_of_another_mode_is_no_obstacle(tmp_path):
    part = tmp_path / ".a.json.part"
    part.touch(0o400)
    write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "a.json").stat().st_mode & 0o200 and not part.exists()


# ---- published checkpoints

def published(model, prefix="_orig_mod.model.inner."): return {prefix + k: v for k, v in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "model.", "inner.", "module.model.inner.", "_orig_mod.model.inner.", "_orig_mod.module."])
def test_published_names(model, tmp_path, prefix):
    torch.save(published(model, prefix), tmp_path / "a.pt")
    back = load_published(tmp_path / "a.pt", model.config)
    assert not back.training and all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())


def test_stored_configuration_and_half_precision(model, tmp_path):
    values = model.config.to_dict() | dict(batch_size=768, causal=False, name="hrm", loss={"loss_type": "x"})
    held = dict(model_config=values, model_state_dict={k: v.bfloat16() for k, v in published(model).items()}, step=3, optimizer_state_dict={})
    torch.save(held, tmp_path / "a.pt")
    back = load_published(tmp_path / "a.pt")
    assert back.config == model.config and back.lm_head.weight.dtype == torch.float32
    assert torch.equal(back.lm_head.weight, model.lm_head.weight.bfloat16().float())


def without(held, key): return {k: v for k, v in held.items() if key not in k}


@pytest.mark.parametrize("change, words", [
    (lambda h: without(h, "lm_head"), "no tensor lm_head.weight; a checkpoint of another architecture"),
    (lambda h: h | {"model.inner.extra.weight": torch.ones(2)}, "extra.weight, which the configuration has no place for"),
    (lambda h: h | {k: torch.ones(2, 2) for k in h if "puzzle_emb" in k}, "puzzle table has 2 rows, for 3 identifiers; puzzle_table='zeros' or 'mean'"),
    (lambda h: without(h, "puzzle_emb"), "holds no puzzle table; puzzle_table='zeros'"),
    (lambda h: h | {k: torch.ones(3, 2) for k in h if "puzzle_emb" in k}, r"puzzle_emb.weights is \(3, 2\), the configuration needs \(3, 32\)"),
    (lambda h: {"epoch": 3}, "no tensor"), (lambda h: {}, "no tensor"), (lambda h: [torch.ones(2)], "holds a list"), (lambda h: torch.ones(2), "holds a Tensor")])
def test_another_architecture(model, tmp_path, change, words):
    torch.save(change(published(model)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"a.pt: .*{words}"): load_published(tmp_path / "a.pt", model.config)


def test_bad_stored_configurations(model, tmp_path):
    for change, words in ((dict(num_heads=5), "num_heads is 5"), (dict(depth=3), "unknown key 'depth'"), (dict(vocab_size="6"), "vocab_size is '6'")):
        torch.save(dict(model_config=model.config.to_dict() | change, model_state_dict=published(model)), tmp_path / "a.pt")
        with pytest.raises(ValueError, match=f"a.pt: model_config: .*{words}"): load_published(tmp_path / "a.pt")
    torch.save(published(model), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt: stores no model_config"): load_published(tmp_path / "a.pt")
    with pytest.raises(FileNotFoundError, match="absent.pt"): load_published(tmp_path / "absent.pt")


@pytest.mark.parametrize("held", [{0: torch.ones(1)}, {"model_state_dict": [1]}, {"model_state_dict": None}, {"model_config": {"expansion": "4"}},
                                  {"model_config": {"halt_exploration_prob": "no"}}, {"model_config": {"rope_theta": None}}], ids=str)
def test_contents_of_unexpected_types(model, tmp_path, held):
    if "model_config" in held: held = dict(model_config=model.config.to_dict() | held["model_config"], model_state_dict=published(model))
    torch.save(held, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="a.pt"): load_published(tmp_path / "a.pt", None if "model_config" in held else model.config)


@pytest.fixture
def release(model, tmp_path):
    "A folder as published: weights of two steps, all_config.yaml, things that are not weights."
    import yaml
    shape = {k: v for k, v in model.config.to_dict().items() if k not in ("arch", "vocab_size", "seq_len", "num_puzzle_identifiers", "mlp_t", "puzzle_emb_len", "no_ACT_continue")}
    arch = dict(name="hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1", loss=dict(name="losses@ACTLossHead"), **shape)
    folder = tmp_path / "release"; folder.mkdir()
    (folder / "all_config.yaml").write_text(yaml.safe_dump(dict(arch=arch, data_path="data/nowhere-at-hand", epochs=3)))
    torch.save(published(model), folder / "step_200"); torch.save({}, folder / "step_90")
    for name in ("README.md", "hrm_act_v1.py", ".gitattributes", "LICENSE"): (folder / name).write_text("")
    return folder


def test_configuration_beside_the_weights(model, release):
    for path in (release, release / "step_200"):
        back = load_published(path, seq_len=model.config.seq_len)
        assert back.config == model.config and all(torch.equal(v, back.state_dict()[k]) for k, v in model.state_dict().items())


def test_length_from_a_data_set_at_hand(model, release, monkeypatch, tmp_path):
    (tmp_path / "nowhere-at-hand/train").mkdir(parents=True); (tmp_path / "nowhere-at-hand/train/dataset.json").write_text(json.dumps({"seq_len": model.config.seq_len}))
    monkeypatch.setenv("HRM_NB_DATA", str(tmp_path))
    assert load_published(release).config == model.config


@pytest.mark.parametrize("text, words", [
    ("arch: !!python/object/apply:os.system ['true']", "not YAML of plain values"), ("arch: [1", "not YAML of plain values"), ("- 1", "holds a list"),
    ("lr: 1", "no settings under arch"), ("arch: {name: gpt@GPT}", "arch.name is 'gpt@GPT'; known are HierarchicalReasoningModel_ACTV1"),
    ("arch: {name: a@HierarchicalReasoningModel_ACTV1, depth: 3}", "unknown key 'depth'"), (None, "pass seq_len")])
def test_bad_configurations_beside(release, text, words):
    if text: (release / "all_config.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"all_config.yaml: .*{words}"): load_published(release)


def test_weights_not_to_be_told(model, release):
    (release / "step_200").rename(release / "a.pt"); (release / "step_90").rename(release / "b.pt")
    with pytest.raises(ValueError, match="2 files that could be weights .a.pt, b.pt."): load_published(release, seq_len=4)
    (release / "b.pt").unlink()
    assert load_published(release, seq_len=model.config.seq_len).config == model.config


def test_another_puzzle_table(model, tmp_path):
    torch.save(published(model), tmp_path / "a.pt")
    stored = model.puzzle_emb.weights
    read = lambda **options: load_published(tmp_path / "a.pt", model.config, **options)
    zeros, mean = read(puzzle_table="zeros", identifiers=9), read(puzzle_table="mean", identifiers=7)
    assert zeros.config.num_puzzle_identifiers == 9 and not zeros.puzzle_emb.weights.any()
    assert torch.allclose(mean.puzzle_emb.weights, stored.mean(0).expand(7, -1)) and torch.equal(mean.lm_head.weight, model.lm_head.weight)
    own = torch.randn(5, stored.shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.equal(read(puzzle_table=own).puzzle_emb.weights, own)
    for options, words in ((dict(puzzle_table="new"), "puzzle_table is 'new'; allowed are"), (dict(puzzle_table=own[:, 1:]), r"puzzle_table is \(5, .*the model needs"),
                           (dict(puzzle_table=own, identifiers=4), "the model needs"), (dict(identifiers=4), "3 rows, for 4 identifiers")):
        with pytest.raises(ValueError, match=words): read(**options)
    torch.save(without(published(model), "puzzle_emb"), tmp_path / "a.pt")                # left out of the file
    assert not read(puzzle_table="zeros").puzzle_emb.weights.any()


def test_hub_checkpoints(model, release, monkeypatch):
    asked = {}
    def snapshot_download(repo, revision, ignore_patterns): asked.update(repo=repo, revision=revision, ignore=ignore_patterns); return str(release)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert load_hub("someone/some-hrm", "v1", seq_len=model.config.seq_len).config == model.config
    assert asked["repo"] == "someone/some-hrm" and asked["revision"] == "v1" and "*.py" in asked["ignore"]
    assert load_hub("sapientinc/HRM-checkpoint-sudoku-extreme").config.seq_len == 81
    def offline(*a, **k): raise ConnectionError
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=offline))
    with pytest.raises(OSError, match="someone/some-hrm: could not be downloaded .ConnectionError."): load_hub("someone/some-hrm")


class Exploit:
    "Touches a file when unpickled."
    def __init__(self, path): self.path = path
    def __reduce__(self): return (Path.touch, (self.path,))


@pytest.mark.parametrize("make", [lambda p: torch.save({"model": Exploit(p)}, p.parent / "evil.pt"),
                                  lambda p: torch.save({"model": Exploit(p)}, p.parent / "evil.pt", _use_new_zipfile_serialization=False),
                                  lambda p: (p.parent / "evil.pt").write_bytes(pickle.dumps({"model": Exploit(p)})),
                                  lambda p: (p.parent / "evil.pt").write_bytes(pickle.dumps(OrderedDict(a=Exploit(p)), protocol=2))])
def test_a_pickle_with_code_is_refused_and_not_run(model, tmp_path, make):
    make(tmp_path / "ran")
    with pytest.raises(ValueError, match="evil.pt: (holds objects that could run code|truncated or not a torch file)"): load_published(tmp_path / "evil.pt", model.config)
    assert not (tmp_path / "ran").exists()
    try: torch.load(tmp_path / "evil.pt", weights_only=False)
    except Exception: pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert (tmp_path / "ran").exists()                                    # read carelessly, it would have


def cuts(data, n=40): return [data[:len(data) * i // n] for i in range(n)] + [data[:i] for i in range(1, 400, 13)]


def survivors(model, file, versions):
    "Errors other than a ValueError that names the file."
    found = {}
    for i, data in enumerate(versions):
        file.write_bytes(data)
        try: load_published(file, model.config)
        except ValueError as e: found |= {} if str(file) in str(e) else {i: repr(e)}
        except Exception as e: found[i] = repr(e)
        else: found[i] = "was read"
    return found


def test_truncated_published_files(model, tmp_path):
    torch.save(published(model), tmp_path / "a.pt")
    assert survivors(model, tmp_path / "a.pt", cuts((tmp_path / "a.pt").read_bytes())) == {}
    assert survivors(model, tmp_path / "a.pt", [b"", b"PK", b"hello", b"\x80\x02}", b"\0" * 100, struct.pack("<Q", 3) + b"{}"]) == {}


def test_truncated_published_files_in_the_old_format(model, tmp_path):
    torch.save(published(model), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert survivors(model, tmp_path / "a.pt", cuts((tmp_path / "a.pt").read_bytes())) == {}
