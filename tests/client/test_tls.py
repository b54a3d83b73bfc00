"""TLS to both servers, the client showing a certificate of its own.

The embedded Redis has no TLS, so that a small TLS front of the tests' own stands before either server; certificates
are made by openssl.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tiny_shop import NOW, TinyShop

from recsys_plugin import AsyncRecommender, InferenceUnavailable, Recommender, StoreUnavailable

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and ``key.pem`` and ``cert.pem`` signed by it for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca")
    openssl("req", *new_key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "request.pem", "-out", "cert.pem", *signing)
    return folder


@contextmanager
def tls_front(port: int, certificates: Path) -> Iterator[int]:
    """Accept TLS with client certificates on a free port and pass everything on to ``port``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(target: Callable[..., None], *arguments: object) -> None:
        threads.append(threading.Thread(target=target, args=arguments))
        threads[-1].start()

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            plain,
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", port)) as outside,
        ):
            back = threading.Thread(target=copy, args=(outside, inside))
            back.start()
            copy(inside, outside)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                start(serve, listener.accept()[0])

    start(accept)
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(timeout=10)


async def test_tls(tiny: TinyShop, certificates: Path) -> None:
    redis_port, triton_port = urlsplit(tiny.redis_url).port, urlsplit(tiny.triton_url).port
    assert redis_port is not None
    assert triton_port is not None
    with tls_front(redis_port, certificates) as secure_redis, tls_front(triton_port, certificates) as secure_triton:
        own = f"ssl_certfile={certificates}/cert.pem&ssl_keyfile={certificates}/key.pem"
        login = urlsplit(tiny.redis_url).netloc.rpartition("@")[0]
        redis_url = f"rediss://{login}@127.0.0.1:{secure_redis}?ssl_ca_certs={certificates}/ca.pem&{own}"
        own = f"certificate_chain={certificates}/cert.pem&private_key={certificates}/key.pem"
        triton_url = f"grpcs://127.0.0.1:{secure_triton}?root_certificates={certificates}/ca.pem&{own}"
        with Recommender(redis_url, triton_url, timeout=10, clock=lambda: NOW) as client:
            assert client.recommend("mug-lover", 1).item_ids == ("mug",)
        async with AsyncRecommender(redis_url, triton_url, timeout=10, clock=lambda: NOW) as other:
            assert (await other.recommend("mug-lover", 1)).item_ids == ("mug",)
        # Without a certificate that is trusted, in either direction, there is no connection.
        with pytest.raises(StoreUnavailable):
            Recommender(f"rediss://127.0.0.1:{secure_redis}", tiny.triton_url, timeout=10)
        with pytest.raises(InferenceUnavailable):
            Recommender(tiny.redis_url, f"grpcs://127.0.0.1:{secure_triton}", timeout=10)
        without_own = f"grpcs://127.0.0.1:{secure_triton}?root_certificates={certificates}/ca.pem"
        with pytest.raises(InferenceUnavailable):
            Recommender(tiny.redis_url, without_own, timeout=10)
