"""What Triton's Python backend leaves in a model repository is gone before anybody looks at its files."""

from __future__ import annotations

from pathlib import Path

from recsys_plugin.runtime.model_repository import remove_bytecode


def test_bytecode_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "tokenizer" / name for name in ("1/model.py", "1/vocab/__init__.txt", "config.pbtxt")]
    gone = tmp_path / "tokenizer" / "1" / "__pycache__" / "model.cpython-311.pyc"
    for path in (*kept, gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    remove_bytecode(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    remove_bytecode(tmp_path / "nowhere")
