"""Who may reach the servers that are started: this machine alone."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tiny_shop import TinyShop
from waiting import wait_until

from recsys_plugin.runtime.processes import marked_processes

_LISTENING = "0A"


def listening(pids: list[int]) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses that some processes listen on, as the kernel has them (proc(5), /proc/net/tcp)."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    target = os.readlink(entry)
                    if target.startswith("socket:["):
                        sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and fields[9] in sockets:
                written = bytes.fromhex(fields[1].partition(":")[0])
                # Each 32 bits are in the machine's own order.
                words = b"".join(written[at : at + 4][::-1] for at in range(0, len(written), 4))
                address = ipaddress.ip_address(words)
                yield getattr(address, "ipv4_mapped", None) or address


def test_the_check_sees_a_socket_that_all_may_reach() -> None:
    with socket.create_server(("0.0.0.0", 0)):
        assert ipaddress.ip_address("0.0.0.0") in listening([os.getpid()])


def test_nothing_listens_beyond_loopback(tiny: TinyShop) -> None:
    for process, ports in ((tiny.redis.process, 1), (tiny.triton.process, 3)):
        pids = marked_processes(process.mark)
        # Triton answers by gRPC before it opens the others.
        wait_until(lambda pids=pids, ports=ports: len(list(listening(pids))) >= ports)  # type: ignore[misc]
        assert all(address.is_loopback for address in listening(pids))
