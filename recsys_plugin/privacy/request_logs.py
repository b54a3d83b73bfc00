"""Lines of people in the log of slow and degraded requests, which calls them by their pseudonyms.

A keyed hash of a person is personal data too (GDPR, recital 26), so forgetting takes whole lines out, of the file that
is full as well, while clients may be writing to it: see :meth:`RequestFile.alone`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recsys_plugin.observability.request_log import RequestFile
from recsys_plugin.privacy.person import Person
from recsys_plugin.privacy.whole_files import drafts_of, whole_file
from recsys_plugin.user_names import PREFIX

__all__ = ["forget_in_request_log", "request_log_files", "requests_of"]

#: Pseudonyms in the text of errors and reasons.
_NAMES = re.compile(rf"{PREFIX}[0-9a-f]+|(?<![0-9a-f])[0-9a-f]{{32}}(?![0-9a-f])")


def request_log_files(path: Path) -> list[Path]:
    """The files that there are of a log: those that clients write, and drafts that a killed process left."""
    kept = (path, path.with_name(f"{path.name}.1"))
    return [file for one in kept for file in (one, *drafts_of(one)) if file.is_file()]


def forget_in_request_log(path: Path, people: Sequence[Person]) -> dict[Path, int]:
    """Take every line out that names one of some people; how many, by file.

    Raises:
        OSError: if a file cannot be written; the others are as they should be, and it is as it was.
    """
    if not request_log_files(path):
        return {}
    removed = {}
    with RequestFile(path, 0).alone() as files:
        for file in files:
            for draft in drafts_of(file):
                draft.unlink(missing_ok=True)
            if not file.is_file():
                continue
            lines = file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not any(_names(line, person) for person in people)]
            if len(kept) < len(lines):
                with whole_file(file) as draft:
                    draft.write_bytes(b"".join(kept))
                removed[file] = len(lines) - len(kept)
    return removed


def requests_of(path: Path, person: Person) -> Iterator[dict[str, Any]]:
    """The requests in a file that were made for a person, the pseudonyms of others in them left out."""
    for line in path.read_bytes().splitlines():
        if not _names(line, person):
            continue
        try:
            record = json.loads(line)
            record["users"] = [user for user in record.get("users", ()) if user == person.pseudonym]
        except (ValueError, TypeError, AttributeError, RecursionError):
            yield {"line": "one that is no record names this person"}
            continue
        for name in ("error", "reason"):
            if isinstance(record.get(name), str):
                record[name] = _NAMES.sub(lambda found: _shown(found[0], person), record[name])
        yield record


def _names(line: bytes, person: Person) -> bool:
    return person.named_in(line) or person.in_text(line.strip())


def _shown(name: str, person: Person) -> str:
    return name if name in person.name_texts else "…"
