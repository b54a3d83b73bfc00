"""One file out of a zip archive on the web, fetched whole or not at all."""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from recsys_plugin.data.adapters import Report
from recsys_plugin.errors import ServiceUnavailable

__all__ = ["download_member"]

_CHUNK = 1 << 20
_LARGEST = 1 << 29


def download_member(url: str, member: str, folder: Path, timeout: float, report: Report, advice: str) -> Path:
    """Download a zip archive and keep one of its files in ``folder``, under its own name.

    Args:
        url: the archive's address.
        member: the file wanted, by its name inside the archive.
        folder: where it goes; made if it is not there.
        timeout: seconds to wait for the server each time.
        report: hears the bytes done.
        advice: what to do instead, for the error message.

    Raises:
        ServiceUnavailable: if the server does not answer, sends too much or sends another thing; nothing is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as scratch:
        archive, extracted = Path(scratch) / "archive.zip", Path(scratch) / member
        try:
            _fetch(url, archive, timeout, report)
            with (
                zipfile.ZipFile(archive) as opened,
                opened.open(member) as source,
                extracted.open("wb") as target,
            ):
                if opened.getinfo(member).file_size > _LARGEST:
                    raise ServiceUnavailable(f"{url}: {member} is larger than {_LARGEST:,} bytes; {advice}")
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
        except (OSError, http.client.HTTPException, zipfile.BadZipFile, KeyError) as error:
            raise ServiceUnavailable(f"cannot download {url} ({error}); {advice}") from error
        final = folder / member
        extracted.replace(final)
    return final


def _fetch(url: str, target: Path, timeout: float, report: Report) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as answer, target.open("wb") as file:
        total, done = int(answer.headers.get("Content-Length", 0)), 0
        while chunk := answer.read(_CHUNK):
            done += len(chunk)
            if done > _LARGEST:
                raise OSError(f"more than {_LARGEST:,} bytes")
            file.write(chunk)
            report(f"downloading {url}", done, total)
