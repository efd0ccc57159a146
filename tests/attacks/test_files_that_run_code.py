"""A model file or checkpoint that runs code when it is loaded: nothing of the kind is read, by anything."""

from __future__ import annotations

import ast
import pickle
from contextlib import suppress
from pathlib import Path

import pytest

from protocols import secagg
from protocols.errors import SecflError
from protocols.testing.cohort import STORAGE_KEY, Cohort
from secfl.federation.checkpoint import FILE, load_checkpoint
from tests.fuzz.readers import all_readers

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "protocols").rglob("*.py"), *(ROOT / "secfl").rglob("*.py")])
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "jsonpickle"}
CALLS = {"torch.load", "torch.jit.load", "np.load", "numpy.load", "pandas.read_pickle", "pd.read_pickle"}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def bomb(tmp_path: Path) -> tuple[bytes, Path]:
    """The bytes, and the file that is there if anybody runs them."""
    target = tmp_path / "was-run"
    raw = pickle.dumps(Bomb(target))
    pickle.loads(raw).close()  # it works
    target.unlink()
    return raw, target


def test_checkpoint_that_is_a_pickle_is_refused_and_not_run(bomb: tuple[bytes, Path], tmp_path: Path) -> None:
    raw, target = bomb
    (tmp_path / FILE).write_bytes(raw)
    with pytest.raises(SecflError):
        load_checkpoint(tmp_path)
    assert not target.exists()


def test_nothing_that_reads_bytes_runs_a_pickle(bomb: tuple[bytes, Path]) -> None:
    raw, target = bomb
    readers = all_readers()
    assert len(readers) > 40
    for read, genuine in readers:
        for bytes_in in (raw, genuine + raw):
            with suppress(SecflError):
                read(bytes_in)
            assert not target.exists()


def test_saved_session_that_is_a_pickle_is_refused_and_not_run(bomb: tuple[bytes, Path]) -> None:
    raw, target = bomb
    cohort = Cohort()
    with pytest.raises(SecflError):
        secagg.restore_server(raw, cohort.roster)
    with pytest.raises(SecflError):
        cohort.restore_party("c00", raw)
    assert STORAGE_KEY not in raw
    assert not target.exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_imports_or_calls_a_loader_that_runs_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module.partition(".")[0]}
        assert not names & LOADERS
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in CALLS
