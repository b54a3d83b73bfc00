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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
import redis
import redis.asyncio
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from tiny_shop import NOW, TinyShop
from watched_redis import PASSWORD

from recsys_plugin import AsyncEventRecorder, AsyncRecommender, Event, EventRecorder, Recommender
from recsys_plugin.errors import InferenceUnavailable, StoreUnavailable
from recsys_plugin.features.bulk_reader import BulkReader
from recsys_plugin.features.codec import entity_key_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.item_changes import ItemChanges, ItemKeys
from recsys_plugin.features.view_layout import ViewLayout
from recsys_plugin.features.writer import BulkWriter
from recsys_plugin.runtime.triton_client import TritonManager
from recsys_plugin.stream.live_rows import LiveRows
from recsys_plugin.stream.worker import StreamWorker

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and ``key.pem`` and ``cert.pem`` signed by it for 127.0.0.1; ``other.pem`` signs nothing."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "rsa:2048", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca")
    openssl("req", *new_key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=a server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl("req", "-x509", *new_key, "-keyout", "other.key", "-out", "other.pem", "-days", "2", "-subj", "/CN=another")
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


@dataclass(frozen=True)
class SecureShop:
    """The tiny shop behind TLS fronts that ask for a certificate."""

    redis: str
    """Host, port and login of the client's user."""
    admin: str
    triton: str
    certificates: Path

    def redis_url(self, *, own: bool = True, ca: str = "ca", login: str | None = None) -> str:
        shown = f"&ssl_certfile={self.certificates}/cert.pem&ssl_keyfile={self.certificates}/key.pem" if own else ""
        return f"rediss://{login or self.redis}?ssl_ca_certs={self.certificates}/{ca}.pem{shown}"

    def triton_url(self, *, own: bool = True, ca: str = "ca") -> str:
        files = self.certificates
        shown = f"&certificate_chain={files}/cert.pem&private_key={files}/key.pem" if own else ""
        return f"grpcs://{self.triton}?root_certificates={files}/{ca}.pem{shown}"


@pytest.fixture(scope="module")
def secure(tiny: TinyShop, certificates: Path) -> Iterator[SecureShop]:
    redis_port, triton_port = urlsplit(tiny.redis_url).port, urlsplit(tiny.triton_url).port
    assert redis_port is not None
    assert triton_port is not None
    login = urlsplit(tiny.redis_url).netloc.rpartition("@")[0]
    with tls_front(redis_port, certificates) as redis, tls_front(triton_port, certificates) as triton:
        where = f"127.0.0.1:{redis}"
        yield SecureShop(f"{login}@{where}", where, f"127.0.0.1:{triton}", certificates)


async def test_both_clients(secure: SecureShop) -> None:
    redis_url, triton_url = secure.redis_url(), secure.triton_url()
    with Recommender(redis_url, triton_url, timeout=10, clock=lambda: NOW) as client:
        assert client.recommend("mug-lover", 1).item_ids == ("mug",)
    async with AsyncRecommender(redis_url, triton_url, timeout=10, clock=lambda: NOW) as other:
        assert (await other.recommend("mug-lover", 1)).item_ids == ("mug",)


@pytest.mark.parametrize("wrong", [{"own": False}, {"ca": "other"}])
async def test_nobody_without_a_trusted_certificate_in_either_direction(
    secure: SecureShop, tiny: TinyShop, wrong: dict[str, Any]
) -> None:
    for redis_url, triton_url, error in (
        (secure.redis_url(**wrong), tiny.triton_url, StoreUnavailable),
        (tiny.redis_url, secure.triton_url(**wrong), InferenceUnavailable),
    ):
        with pytest.raises(error) as caught:
            Recommender(redis_url, triton_url, timeout=10)
        assert PASSWORD not in str(caught.value)
        with pytest.raises(error):
            async with AsyncRecommender(redis_url, triton_url, timeout=10) as other:
                await other.recommend("mug-lover", 1)
    with TritonManager(secure.triton_url(**wrong)) as triton:
        assert not triton.is_live()


def test_a_certificate_for_another_host_is_refused(secure: SecureShop, tiny: TinyShop) -> None:
    """The front's is for 127.0.0.1, not for localhost."""
    with pytest.raises(StoreUnavailable, match=r"(?i)hostname|certificate"):
        Recommender(secure.redis_url(login=secure.redis.replace("127.0.0.1", "localhost")), tiny.triton_url, timeout=10)
    with pytest.raises(InferenceUnavailable):
        Recommender(tiny.redis_url, secure.triton_url().replace("127.0.0.1", "localhost"), timeout=10)


async def test_everything_else_that_talks_to_redis(secure: SecureShop) -> None:
    """Recorders, worker, bulk writer and reader, what tells of items, and Feast with our connection string."""
    url = secure.redis_url(login=secure.admin)
    address = RedisAddress.parse(url)
    with EventRecorder(url, timeout=10, project="tls") as recorder:
        recorder.record(Event(user_id="tls", item_id="tea", event_type="click"))
    async with AsyncEventRecorder(url, timeout=10, project="tls") as other:
        await other.record(Event(user_id="tls", item_id="tea", event_type="click"))
    rows = LiveRows("tls")
    layouts = (*rows.user_views.values(), rows.item_view)
    schema = {f"{layout.view}:{name}": dtype for layout in layouts for name, dtype in layout.features.items()}
    worker = StreamWorker(address, "tls", schema=schema)
    worker.run(until_idle=True)
    worker.close()
    assert worker.counts.entries >= 2, worker.counts
    items = [f"item-{number}" for number in range(5_000)]  # more than a socket's buffer holds
    layout = ViewLayout("tls", "tls", {"item_id": "STRING"}, {"text": "STRING"})
    columns = {"item_id": items, "text": [item * 20 for item in items]}
    times = pa.array([datetime.fromtimestamp(NOW, UTC)] * len(items), pa.timestamp("us", tz="UTC"))
    with BulkWriter(address) as writer:
        writer.write(layout, pa.record_batch({**columns, "event_timestamp": times}))
        assert writer.drain().written == len(items)
    with BulkReader(address, {"tls:text": "STRING"}, project="tls", join_key="item_id", timeout=10) as reader:
        assert reader.read(items, timeout=10)["tls:text"].values.tolist() == columns["text"]
    changes = ItemChanges(address, ItemKeys("tls"), timeout=10)
    assert len({*ItemKeys("tls").item_ids(changes.everything())}) == len(items) + 1  # and the one of the worker
    changes.close()
    config = RedisOnlineStoreConfig(
        redis_type=RedisType(address.feast_redis_type()), connection_string=address.feast_connection_string()
    )
    feast: Any = RedisOnlineStore()._get_client(config)
    assert feast.ping()
    assert feast.delete(*(layout.key_prefix + entity_key_value(item) + layout.key_suffix for item in items)) == len(
        items
    )
    feast.close()


def test_management_calls(secure: SecureShop) -> None:
    with TritonManager(secure.triton_url()) as triton:
        assert triton.is_live()
        assert {state.name for state in triton.index()} >= {"recommend", "rank"}


def test_sentinels_are_asked_over_tls_too() -> None:
    url = "rediss-sentinel://a:1,b:2/main?ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k"
    for client in (RedisAddress.parse(url).connect(1), RedisAddress.parse(url).connect_async(1)):
        manager = client.connection_pool.sentinel_manager  # type: ignore[union-attr]
        for sentinel in manager.sentinels:
            assert issubclass(
                sentinel.connection_pool.connection_class, redis.SSLConnection | redis.asyncio.SSLConnection
            )
            options = sentinel.connection_pool.connection_kwargs
            assert (options["ssl_ca_certs"], options["ssl_certfile"], options["ssl_keyfile"]) == ("/ca.pem", "/c", "/k")
