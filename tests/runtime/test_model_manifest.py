"""Models that are not what was exported, or not signed: refused by name, while what runs goes on serving."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_services import ask_double
from tiny_models import write_double, write_known_answers

from recsys_plugin.errors import ConfigurationError, ModelRefused
from recsys_plugin.runtime.services import Services
from recsys_plugin.runtime.versions import ModelVersions
from recsys_plugin.security.model_manifest import check_repository, remove_manifest, write_manifest

KEY = "sixteen bytes or more of it"
MakeServices = Callable[..., Services]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two versions of one model, both with a signed manifest."""
    folder = tmp_path / "model_repository"
    for version in (1, 2):
        write_double(folder, version=version, factor=2.0 * version)
        write_manifest(folder, version, key=KEY)
    return folder


def refused(repository: Path, *versions: int, key: str | None = KEY) -> str:
    with pytest.raises(ModelRefused) as caught:
        check_repository(repository, versions or None, key=key)
    return str(caught.value)


def test_what_was_exported_is_right_with_and_without_the_key(repository: Path) -> None:
    for key, signed in ((KEY, True), (None, False)):
        found = check_repository(repository, key=key)
        assert [(one.version, one.files, one.signed, one.manifested) for one in found] == [
            (1, 1, signed, True),
            (2, 1, signed, True),
        ]
    assert [one.version for one in check_repository(repository, [1])] == [1]


def test_what_is_wrong_is_named(repository: Path) -> None:
    graph, configuration = repository / "double/2/model.onnx", repository / "double/config.pbtxt"
    right = graph.read_bytes()
    graph.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert "double/2/model.onnx has another SHA-256" in refused(repository)
    assert check_repository(repository, [1], key=KEY)  # version 1 is as it was
    graph.unlink()
    assert "double/2/model.onnx is missing" in refused(repository)
    graph.symlink_to(repository / "double/1/model.onnx")
    assert "double/2/model.onnx is a link or no file" in refused(repository)
    graph.unlink()
    graph.write_bytes(right)
    (repository / "double/2/model.py").write_text("import os")
    assert "double/2/model.py is not in its manifest" in refused(repository)
    (repository / "double/2/model.py").unlink()
    # A model that nobody exported would be loaded as well, and could be a program.
    (repository / "other/1").mkdir(parents=True)
    (repository / "other/config.pbtxt").write_text('backend: "python"')
    (repository / "other/1/model.py").write_text("import os")
    told = refused(repository)
    assert "the repository: other/config.pbtxt is not in its manifest" in told
    assert "version 1: other/1/model.py is not in its manifest" in told
    for path in ("other/1/model.py", "other/config.pbtxt"):
        (repository / path).unlink()
    written = configuration.read_text()
    configuration.write_text(written.replace("onnxruntime", "python"))
    assert "the repository: double/config.pbtxt has another SHA-256" in refused(repository, 1)
    configuration.write_text(written)
    assert len(check_repository(repository, key=KEY)) == 2


def test_a_manifest_must_be_signed_and_of_its_version(repository: Path) -> None:
    manifest, signature = repository / "MANIFEST.2.json", repository / "MANIFEST.2.hmac"
    assert "signature of MANIFEST.2.json is not by this key" in refused(repository, key="another key of sixteen")
    with pytest.raises(ConfigurationError, match="RECSYS_MODEL_KEY must be 16 bytes"):
        check_repository(repository, key="short")
    # Somebody who may write here, but has no key, makes digests that fit.
    (repository / "double/2/model.onnx").write_bytes(b"evil")
    write_manifest(repository, 2)
    assert "MANIFEST.2.json is not signed" in refused(repository)
    signature.write_text("0" * 64)
    assert "not by this key" in refused(repository)
    # The right signature of another version is none.
    manifest.write_bytes((repository / "MANIFEST.1.json").read_bytes())
    signature.write_bytes((repository / "MANIFEST.1.hmac").read_bytes())
    assert "no manifest of this version" in refused(repository)
    remove_manifest(repository, 2)
    assert "MANIFEST.2.json: No such file" in refused(repository)
    assert "MANIFEST.2.json: No such file" in refused(repository, key=None)


def test_repositories_older_than_manifests_are_taken_unless_there_is_a_key(repository: Path) -> None:
    for version in (1, 2):
        remove_manifest(repository, version)
    assert [one.manifested for one in check_repository(repository)] == [False, False]
    assert "MANIFEST.1.json" in refused(repository)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_for_a_manifest_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_bytes"
    (folder / "double/1").mkdir(parents=True, exist_ok=True)
    (folder / "MANIFEST.1.json").write_bytes(data)
    assert "MANIFEST.1.json" in refused(folder, key=None)


def test_the_old_version_keeps_serving(make_services: MakeServices, tmp_path: Path) -> None:
    """On the real Triton: a corrupt file, a wrong digest and a bad signature each, and then the right version."""
    folder, services = tmp_path / "model_repository", make_services(model_key=KEY)
    write_manifest(folder, 1, key=KEY)
    url = services.up().triton_url
    assert ask_double(url) == 2
    write_double(folder, version=2, factor=5.0)
    write_known_answers(tmp_path / ".recsys", version=2, factor=5.0)
    write_manifest(folder, 2, key=KEY)
    graph, manifest, signature = folder / "double/2/model.onnx", folder / "MANIFEST.2.json", folder / "MANIFEST.2.hmac"
    right = {path: path.read_bytes() for path in (graph, manifest, signature)}
    digest = json.loads(right[manifest])["files"]["double/2/model.onnx"]
    for path, wrong, named in (
        (graph, right[graph][:-1], "double/2/model.onnx"),
        (manifest, right[manifest].replace(digest.encode(), b"0" * 64), "MANIFEST.2.json"),
        (signature, b"0" * 64, "MANIFEST.2.json"),
    ):
        path.write_bytes(wrong)
        versions = ModelVersions(services, "recsys")
        for load in (services.up, versions.load, versions.verify):
            with pytest.raises(ModelRefused, match=named):
                load()
        assert ask_double(url) == 2
        with pytest.raises(ModelRefused, match=named):
            make_services(model_key=KEY).triton.start()
        path.write_bytes(right[path])
    os.utime(graph)
    assert services.up().version == 2
    assert ask_double(url) == 5
    # A server that is started anew refuses as well, and says what to do.
    services.down()
    graph.write_bytes(b"")
    with pytest.raises(ModelRefused, match="recsys export"):
        services.up()
    assert not services.triton.process.running
