"""Nothing is pickled: what is loaded as a pickle may run anything."""

from __future__ import annotations

import ast
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from shops import Shop

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("recsys_plugin", "feature_repo", "scripts") for path in (ROOT / name).rglob("*.py"))
#: Modules that make code of data.
REFUSED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
REFUSED_CALLS = {"eval", "exec", "compile", "__import__"}
#: Functions of numpy that pickle objects unless told not to; and what they are told.
NUMPY_FILES = {"load", "save", "savez", "savez_compressed"}


def found_in(source: str) -> list[str]:
    """What a module does that it must not, with the line of each."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [f"{node.lineno}: imports {name}" for name in names if name.split(".")[0] in REFUSED_MODULES]
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in REFUSED_CALLS:
            found.append(f"{node.lineno}: calls {function.id}")
        if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
            continue
        module, name = function.value.id, function.attr
        told = {keyword.arg: keyword.value for keyword in node.keywords}
        if (module, name) in {("torch", "load"), ("torch", "save")}:
            found.append(f"{node.lineno}: calls torch.{name}")
        if module in ("np", "numpy") and name in NUMPY_FILES:
            allowed = told.get("allow_pickle")
            if not isinstance(allowed, ast.Constant) or allowed.value is not False:
                found.append(f"{node.lineno}: numpy.{name} without allow_pickle=False")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_pickles(path: Path) -> None:
    assert found_in(path.read_text(encoding="utf-8")) == []


def test_the_check_can_fail() -> None:
    refused = ("import pickle", "from joblib import dump", "eval(x)", "torch.load(p)", "np.load(p)", "np.save(p, a)")
    assert [len(found_in(line)) for line in refused] == [1] * len(refused)


def is_pickled(data: bytes) -> bool:
    """Whether a file is a pickle, an archive with one in it, or an array of pickled objects."""
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if data[:6] == b"\x93NUMPY":
        return b"'O'" in data[:256] or b"|O" in data[:256]
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith(".pkl") or is_pickled(archive.read(name)) for name in archive.namelist())
    return False


def test_pickles_are_recognised(tmp_path: Path) -> None:
    with (tmp_path / "objects.npz").open("wb") as file:
        np.savez(file, ids=np.array([object()], dtype=object))  # pickled, as it is the default of saving
    assert is_pickled((tmp_path / "objects.npz").read_bytes())
    with (tmp_path / "texts.npz").open("wb") as file:
        np.savez(file, ids=np.array(["a"]), allow_pickle=False)
    assert not is_pickled((tmp_path / "texts.npz").read_bytes())


def test_a_trained_and_exported_home_holds_no_pickle(small_shop: Shop) -> None:
    files = [path for path in small_shop.settings.home.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".onnx", ".safetensors", ".parquet", ".json", ".npz"} <= kinds
    assert [str(path) for path in files if path.suffix != ".parquet" and is_pickled(path.read_bytes())] == []
