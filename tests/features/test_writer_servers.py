"""Rows written to servers of every kind, to some that fail, and over every transport."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from written import EPOCH, NOW, SMALL, key, price, small

from recsys_plugin.errors import DeadlineExceeded, StoreUnavailable
from recsys_plugin.features.codec import decode_value
from recsys_plugin.features.connection import RedisAddress
from recsys_plugin.features.writer import BulkWriter, WriteCounts


def test_a_server_that_refuses_is_named_and_nothing_counts(start_redis: Any) -> None:
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        client.config_set("maxmemory", 1)
    with BulkWriter(RedisAddress.parse(server.url), timeout=20) as writer:
        writer.write(SMALL, small(["a"], [1.0], [NOW]))
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            writer.drain()
        assert writer.counts == WriteCounts(0, 0)


def test_servers_away_or_hanging(start_redis: Any, free_tcp_port: int) -> None:
    with BulkWriter(RedisAddress.parse(f"redis://me:secret@127.0.0.1:{free_tcp_port}"), timeout=20) as away:
        with pytest.raises(StoreUnavailable, match="refused") as caught:
            away.write(SMALL, small(["a"], [1.0], [NOW]))
        assert "secret" not in str(caught.value)
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        process = client.info("server")["process_id"]
    with BulkWriter(RedisAddress.parse(server.url), timeout=3) as writer:
        assert writer.write_row(SMALL, {"user_id": "a"}, {"price": 1.0, "name": ""}, NOW)
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceeded, match="3000 ms"):
                writer.write_row(SMALL, {"user_id": "b"}, {"price": 1.0, "name": ""}, NOW)
        finally:
            os.kill(process, signal.SIGCONT)
        # The answer of the call that was given up must not be taken for that of the next.
        assert not writer.write_row(SMALL, {"user_id": "a"}, {"price": 1.0, "name": ""}, EPOCH)
        assert writer.write_row(SMALL, {"user_id": "a"}, {"price": 2.0, "name": ""}, NOW)


def check_both_ways(url: str, readers: list[Any]) -> None:
    """A batch and a row through the URL, each found on exactly one of the servers."""
    users = [f"user-{number}" for number in range(200)]
    with BulkWriter(RedisAddress.parse(url), timeout=20) as writer:
        writer.write(SMALL, small(users, [float(number) for number in range(200)], [NOW] * 200))
        assert writer.drain() == WriteCounts(200, 0)
        assert not writer.write_row(SMALL, {"user_id": "user-7"}, {"price": -1.0, "name": ""}, EPOCH)
        assert writer.write_row(SMALL, {"user_id": "user-8"}, {"price": -1.0, "name": ""}, NOW)
    found = [{name: reader.hgetall(name) for name in reader.keys("*shop")} for reader in readers]
    assert [len(part) > 0 for part in found] == [True] * len(readers)
    together = {name: value for part in found for name, value in part.items()}
    assert len(together) == sum(map(len, found)) == 200
    for number, user_id in enumerate(users):
        wanted = -1.0 if number == 8 else float(number)
        assert decode_value(together[key(user_id)][SMALL.fields[1]]) == ("DOUBLE", wanted)


def test_unix_socket_and_acl(start_redis: Any) -> None:
    server = start_redis()
    with redis.Redis(port=server.port) as client:
        check_both_ways(f"unix://{server.socket_path}", [client])
        client.flushall()
        # What a writer must be allowed to do, and no more.
        rights = ("+eval", "+evalsha", "+hget", "+hset", "+client|setinfo")
        client.execute_command("ACL", "SETUSER", "loader", "on", ">pw", "~*", "-@all", *rights)
        check_both_ways(f"redis://loader:pw@127.0.0.1:{server.port}", [client])


def test_tls(redis_server: Any, client: Any, tmp_path: Path) -> None:
    """The embedded server has no TLS, so another process's end of it stands before the server."""
    certificate, secret = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(secret), "-out", str(certificate)], capture_output=True, check=True)
    with tls_before(redis_server.port, certificate, secret) as port:
        address = RedisAddress.parse(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}")
        with BulkWriter(address, timeout=20) as writer:
            assert writer.write_row(SMALL, {"user_id": "secret"}, {"price": 9.0, "name": ""}, NOW)
    assert price(client, "secret") == 9.0


def test_a_server_without_hsetex(start_redis: Any) -> None:
    """As Redis before 8 and Valkey before 9."""
    server = start_redis("--rename-command", "HSETEX", "")
    with redis.Redis(port=server.port) as client:
        with pytest.raises(redis.ResponseError, match="unknown command"):
            client.execute_command("HSETEX", "key", "FNX", "FIELDS", 1, "field", "value")
        check_both_ways(server.url, [client])


@contextmanager
def tls_before(port: int, certificate: Path, secret: Path) -> Iterator[int]:
    """Accept one connection over TLS on a port of its own and pass its bytes on to another port, and back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            accepted, _ = listening.accept()
            with context.wrap_socket(accepted, server_side=True) as outside, socket.socket() as inside:
                inside.connect(("127.0.0.1", port))
                back = threading.Thread(target=pass_on, args=(inside, outside))
                back.start()
                pass_on(outside, inside)
                inside.shutdown(socket.SHUT_WR)
                back.join()

        serving = threading.Thread(target=serve)
        serving.start()
        yield int(listening.getsockname()[1])
        serving.join(timeout=60)
        assert not serving.is_alive()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(65_536):
        target.sendall(data)


def test_sentinel(start_redis: Any, tmp_path: Path) -> None:
    server = start_redis()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor main 127.0.0.1 {server.port} 1\n")
    sentinel = start_redis("--sentinel", first=str(configuration))
    with redis.Redis(port=server.port) as client:
        check_both_ways(f"redis-sentinel://127.0.0.1:{sentinel.port}/main", [client])


def port_of(node: redis.Redis) -> int:
    port: int = node.connection_pool.connection_kwargs["port"]
    return port


def test_cluster(cluster: list[redis.Redis]) -> None:
    check_both_ways(f"redis-cluster://127.0.0.1:{port_of(cluster[0])}", list(cluster))


def test_a_slot_that_moves_is_followed(cluster: list[redis.Redis]) -> None:
    from redis.crc import key_slot

    ids = [str(node.execute_command("CLUSTER", "MYID"), "ascii") for node in cluster]
    slot = key_slot(key("mover"))
    here = 0 if slot < 8192 else 1
    there = 1 - here
    with BulkWriter(RedisAddress.parse(f"redis-cluster://127.0.0.1:{port_of(cluster[0])}"), timeout=20) as writer:
        values = {"price": 1.0, "name": ""}
        # About to move, and no such key here yet: ASK.
        cluster[there].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[here])
        cluster[here].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[there])
        assert writer.write_row(SMALL, {"user_id": "mover"}, values, NOW)
        # Moved: MOVED.
        for number in (there, here):
            cluster[number].execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[there])
        assert writer.write_row(SMALL, {"user_id": "mover"}, values | {"price": 2.0}, NOW)
        assert writer.counts == WriteCounts(2, 0)
    assert price(cluster[there], "mover") == 2.0
