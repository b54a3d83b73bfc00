"""The proxy before a server that sends back what it gets: bytes whole, late, held, slow, cut, reset, refused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import holds_within, wait_until

from recsys_plugin.chaos.proxy import Direction, Link, Proxies, proxies
from recsys_plugin.errors import InvalidInput
from recsys_plugin.runtime.ports import LOOPBACK, PortBook


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a server that sends back whatever it gets."""
    listener = socket.create_server((LOOPBACK, 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture(scope="module")
def links(echo: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    ports, _ = PortBook(tmp_path_factory.mktemp("ports")).free(["proxy"])
    with proxies({"echo": (ports["proxy"], echo)}) as made:
        yield made


@pytest.fixture
def peer(links: Proxies) -> Iterator[socket.socket]:
    """A connection through the proxy, which is as nothing before and after each test."""
    links.set("echo", Link())
    with connected(links) as made:
        yield made
    links.set("echo", Link())


def connected(links: Proxies) -> socket.socket:
    return socket.create_connection((LOOPBACK, links.ports["echo"]), timeout=10)


def read(peer: socket.socket, count: int) -> bytes:
    """So many bytes, or what comes before the end."""
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_what_passes_is_whole_and_in_order(peer: socket.socket, parts: list[bytes]) -> None:
    for part in parts:
        peer.sendall(part)
    assert read(peer, sum(map(len, parts))) == b"".join(parts)


def test_latency_delays_every_byte_and_costs_no_rate(peer: socket.socket, links: Proxies) -> None:
    late, at_once = [], []
    # The machine may be held up once.
    for _ in range(3):
        links.set("echo", Link(Direction(latency=0.1), Direction(latency=0.1)))
        began = time.monotonic()
        for _ in range(10):
            peer.sendall(b"x" * 1000)
        assert read(peer, 10_000) == b"x" * 10_000
        late.append(time.monotonic() - began)
        links.set("echo", Link())
        began = time.monotonic()
        peer.sendall(b"y")
        assert read(peer, 1) == b"y"
        at_once.append(time.monotonic() - began)
    assert min(late) >= 0.2
    assert sorted(late)[1] < 1.5
    assert sorted(at_once)[1] < 0.1


def test_what_is_held_arrives_once_that_ends(peer: socket.socket, links: Proxies) -> None:
    held = Direction(held=True)
    links.set("echo", Link(held, held))
    peer.sendall(b"held")
    peer.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.recv(1)
    peer.settimeout(10)
    # A connection that is made meanwhile is as dead as the others.
    with connected(links) as late:
        late.settimeout(0.1)
        late.sendall(b"late")
        with pytest.raises(TimeoutError):
            late.recv(1)
        links.set("echo", Link())
        late.settimeout(10)
        assert (read(peer, 4), read(late, 4)) == (b"held", b"late")


def test_answers_are_cut(peer: socket.socket, links: Proxies) -> None:
    links.set("echo", Link(to_client=Direction(cut_after=5)))
    with connected(links) as cut:
        cut.sendall(b"0123456789")
        assert read(cut, 10) == b"01234"


def test_answers_come_as_fast_as_they_may(peer: socket.socket, links: Proxies) -> None:
    links.set("echo", Link(to_client=Direction(bytes_per_second=10_000)))
    took = []
    for _ in range(3):
        began = time.monotonic()
        for _ in range(4):
            peer.sendall(b"z" * 500)
            assert read(peer, 500) == b"z" * 500
        took.append(time.monotonic() - began)
    assert min(took) > 0.1
    assert sorted(took)[1] < 2  # the machine may be held up once


def test_connections_are_reset_and_refused_and_come_back(peer: socket.socket, links: Proxies) -> None:
    peer.sendall(b"first")
    assert read(peer, 5) == b"first"
    links.set("echo", Link(refused=True))
    with pytest.raises(ConnectionResetError):
        peer.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(links)
    assert links.connections("echo") == 0
    links.set("echo", Link())
    with connected(links) as again:
        again.sendall(b"again")
        assert read(again, 5) == b"again"


def test_a_connection_that_ends_leaves_nothing(peer: socket.socket, links: Proxies) -> None:
    # The proxy may not know yet that the peer is there, or that those of other tests are not.
    wait_until(lambda: links.connections("echo") == 1)
    with connected(links) as brief:
        brief.sendall(b"brief")
        assert read(brief, 5) == b"brief"
        assert links.connections("echo") == 2
    wait_until(lambda: links.connections("echo") == 1)


def test_a_server_that_is_not_there_shows_as_a_reset(tmp_path_factory: pytest.TempPathFactory) -> None:
    ports, _ = PortBook(tmp_path_factory.mktemp("ports")).free(["proxy", "nobody"])
    with (
        proxies({"echo": (ports["proxy"], ports["nobody"])}) as made,
        connected(made) as lost,
        pytest.raises(ConnectionResetError),
    ):
        lost.recv(1)
    assert holds_within(lambda: refused(ports["proxy"]), 20)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


@pytest.mark.parametrize(
    "wrong", [{"latency": -1.0}, {"latency": float("nan")}, {"bytes_per_second": 0.0}, {"cut_after": -1}]
)
def test_directions_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Direction(**wrong)  # type: ignore[arg-type]
