"""The package's promises about names and imports: true ``__all__``, a thin import, one direction."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import recsys_plugin

ROOT = Path(recsys_plugin.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if "backends" not in path.parts)
#: What writes whole Arrow batches. No client imports the first, and the second imports it for a batch only.
WRITE_BATCHES = {"features/encoding.py", "features/writer.py"}
#: What turns the log into tables; only the command line imports it.
TABLES_OF_THE_LOG = {"impressions/archive.py", "impressions/join.py", "impressions/parquet.py"}
HEAVY = ["feast", "torch", "transformers", "pandas", "pyarrow", "onnx", "onnxruntime", "click", "rich"]
HEAVY += ["prometheus_client", "opentelemetry"]
HEAVY += ["redis", "grpc", "tritonclient"]  # these are dependencies, loaded when a client is made

#: What an optional extra is for; only who asks for it imports the module.
EXTRAS = {
    "observability/metrics.py": {"prometheus_client"},
    "observability/exposition.py": {"prometheus_client"},
    "observability/families.py": {"prometheus_client"},
    "observability/stream_metrics.py": {"prometheus_client"},
    "observability/live.py": {"prometheus_client"},
    "observability/tracing.py": {"opentelemetry"},
    "observability/spans.py": {"opentelemetry"},
    "observability/otlp.py": {"opentelemetry"},
    "observability/collector.py": {"opentelemetry"},
}

#: Package → what it may import of this project. What is not listed may import anything.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "urls": set(),
    "digits": {"errors"},
    "settings": {"errors", "limits", "digits"},
    "identifiers": {"errors", "limits"},
    "pseudonyms": {"errors"},
    "user_names": {"errors", "settings", "pseudonyms"},
    "background": {"errors"},
    "resilience": {"errors", "resilience"},
    "features": {"errors", "limits", "urls", "digits", "resilience", "user_names", "features"},
    "events": {"errors", "limits", "digits", "settings", "identifiers", "background", "features", "events"},
    "inference": {"errors", "limits", "urls", "resilience", "inference"},
    "policy": {"errors", "limits", "policy"},
    "query": {"inference", "query"},
    "trials": {"errors", "limits", "events", "features", "trials"},
    "ads": {"errors", "limits", "digits", "identifiers", "events", "features", "ads"},
    "consent": {"errors", "limits", "pseudonyms", "events", "features", "consent"},
    "impressions": {
        *("errors", "limits", "digits", "identifiers", "background", "features", "events"),
        *("pseudonyms", "consent", "impressions"),
    },
    "observability": {
        *("errors", "limits", "settings", "background", "pseudonyms", "resilience"),
        *("features", "events", "observability"),
    },
    "client": {
        "observability",
        "errors",
        "limits",
        "settings",
        "identifiers",
        "background",
        "resilience",
        "features",
        "events",
        "impressions",
        "inference",
        "policy",
        "query",
        "pseudonyms",
        "consent",
        "trials",
        "ads",
        "client",
    },
}


def test_public_names_are_sorted_and_there() -> None:
    assert list(recsys_plugin.__all__) == sorted(recsys_plugin.__all__)
    for name in recsys_plugin.__all__:
        assert hasattr(recsys_plugin, name)


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert recsys_plugin.__version__ == project["version"]


def test_import_is_thin_and_quick() -> None:
    code = (
        "import sys, time, json; start = time.process_time(); import recsys_plugin; took = time.process_time() - start;"
        f"print(json.dumps([took, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert [loaded for _, loaded in runs] == [[]] * 3
    # Processor time, and the best of three: the promise is about the import, not about a busy machine.
    assert min(seconds for seconds, _ in runs) <= 0.3


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_all_is_true(path: Path) -> None:
    tree = ast.parse(path.read_text())
    exported: list[str] | None = None
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                defined |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
                if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
                    exported = list(ast.literal_eval(node.value))
        elif isinstance(node, ast.Import | ast.ImportFrom) and path.name == "__init__.py":
            defined |= {alias.asname or alias.name for alias in node.names}
    if exported is None and not tree.body[1:]:
        return  # nothing but a docstring
    assert exported is not None, "no __all__"
    assert set(exported) <= defined
    if path.name != "__init__.py":
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
        }
        assert public <= set(exported)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if package not in MAY_IMPORT:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [str(node.module)]
        for name in names:
            top, *rest = name.split(".")
            if top == "recsys_plugin":
                assert rest, "modules import from modules, never from the package's front door"
                assert rest[0] in MAY_IMPORT[package], f"{package} must not import {name}"
            else:
                allowed = sys.stdlib_module_names | {"numpy", "redis", "hiredis", "grpc", "tritonclient"}
                where = path.relative_to(ROOT).as_posix()
                heavy = (
                    {"pyarrow"}
                    if where in WRITE_BATCHES
                    else {"pyarrow", "duckdb"}
                    if where in TABLES_OF_THE_LOG
                    else set()
                )
                assert top in allowed | heavy | EXTRAS.get(where, set()), name


def test_every_public_name_can_be_imported_from_where_it_lives() -> None:
    for path in MODULES:
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in MAY_IMPORT:
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
            assert all(hasattr(module, name) for name in module.__all__)
