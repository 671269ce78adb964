"What several test files share."
import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of two threads each would wait for each other
from pathlib import Path

import pytest
import torch

from hrm_nb.model import Reasoner, ReasonerConfig


@pytest.fixture(scope="session")
def real():
    "A function name -> path of a real data set. Without HRM_NB_DATA the test skips; a set missing below it is a failure."
    root = os.environ.get("HRM_NB_DATA")
    if not root: pytest.skip("HRM_NB_DATA is not set: no real data sets here")
    def path(name):
        assert (Path(root) / name).is_dir(), f"HRM_NB_DATA is {root}, which holds no {name}"
        return Path(root) / name
    return path


@pytest.fixture(scope="session")
def tiny_config():
    "A function (**changes) -> configuration of a model that trains in milliseconds; reads patterns.make(n, size=3)."
    def make(**changes):
        return ReasonerConfig.hrm(**dict(vocab_size=12, seq_len=9, num_puzzle_identifiers=3, puzzle_emb_ndim=32, hidden_size=32, num_heads=4,
                                         expansion=2, H_layers=1, L_layers=1, halt_max_steps=3, forward_dtype="float32") | changes)
    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    "A function (seed, **changes) -> a fresh model."
    return lambda seed=0, **changes: Reasoner(tiny_config(**changes), seed=seed)


@pytest.fixture
def one_thread():
    "One thread, so that sums are formed in one order wherever the test runs."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    "The longest first, so that no worker is left with them at the end: experiments, then the other notebooks and the site."
    long = ("test_notebook_runs", "test_the_site")
    items.sort(key=lambda item: 0 if "experiments" in item.name else 1 if item.originalname in long else 2)
