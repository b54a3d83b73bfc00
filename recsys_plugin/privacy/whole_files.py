"""Files that are written anew: each is there as it was before or as it is afterwards, never in part."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["drafts_of", "whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place, with its mode, when the block ends well."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.touch(mode=0o600)
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(draft, path.stat().st_mode)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def drafts_of(path: Path) -> list[Path]:
    """Drafts of a file that killed processes left."""
    return sorted(path.parent.glob(f".{path.name}.{'[0-9a-f]' * 32}")) if path.parent.is_dir() else []
