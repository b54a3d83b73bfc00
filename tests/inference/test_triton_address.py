"""Triton URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys_plugin.errors import ConfigurationError
from recsys_plugin.inference.address import TritonAddress


def test_forms() -> None:
    plain = TritonAddress.parse("grpc://triton:8001")
    assert (plain.target, plain.tls, plain.credentials(), str(plain)) == (
        "triton:8001",
        False,
        None,
        "grpc://triton:8001",
    )
    assert TritonAddress.parse("grpc://[::1]:8001/").target == "[::1]:8001"
    secure = TritonAddress.parse("grpcs://triton:8001?root_certificates=/ca.pem&private_key=/k&certificate_chain=/c")
    assert (secure.tls, secure.root_certificates, secure.private_key) == (True, Path("/ca.pem"), Path("/k"))
    assert str(secure) == "grpcs://triton:8001"
    assert TritonAddress.parse("grpcs://triton:8001").credentials() is not None


def test_several_servers_stand_side_by_side() -> None:
    plain = TritonAddress.parse_several("grpc://first:8001,[::1]:8101,third:8201/")
    assert [str(address) for address in plain] == ["grpc://first:8001", "grpc://[::1]:8101", "grpc://third:8201"]
    secure = TritonAddress.parse_several("grpcs://a:1,b:2?root_certificates=/some/ca.pem")
    assert [(address.target, address.root_certificates) for address in secure] == [
        ("a:1", Path("/some/ca.pem")),
        ("b:2", Path("/some/ca.pem")),
    ]
    for url in ("", "a:1,b:2", "grpc://a:1,", "grpc://a:1,b", "grpc://a:1,a:1", "grpc://a:1,grpc://b:1"):
        with pytest.raises(ConfigurationError, match="Triton URL"):
            TritonAddress.parse_several(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "triton:8001",
        "http://triton:8000",
        "grpc://triton",
        "grpc://:8001",
        "grpc://triton:x",
        "grpc://[::1",
        "grpc://triton:8001/models",
        "grpc://triton:8001?root_certificates=/ca.pem",
        "grpcs://triton:8001?surprise=1",
        "grpcs://triton:8001?private_key=/k",
    ],
)
def test_other_forms_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Triton URL"):
        TritonAddress.parse(url)


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    address = TritonAddress.parse(f"grpcs://triton:8001?root_certificates={tmp_path}/none.pem")
    with pytest.raises(ConfigurationError, match=r"none\.pem"):
        address.credentials()
