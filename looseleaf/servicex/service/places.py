"""Where a service reads files: the folders and hosts that its operator allows."""

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from looseleaf.errors import ConfigError, shown

# without http, in which anybody on the way can write; a host of these may be anywhere but INTERNAL
SCHEMES = frozenset({"root", "https", "s3"})
# what the kernel says of processes and devices, the service's own keys among it
NEVER = (Path("/proc"), Path("/sys"), Path("/dev"))
# this machine and its links, where clouds hand credentials to whoever asks; two clouds do so
# elsewhere
INTERNAL = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "100.100.100.200/32",
        "::/127",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::254/128",
    )
]
NAT64 = ip_network("64:ff9b::/96")

Ip = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Places:
    """Local files are read below `folders`, not below `hidden`. `hosts` are allowed wherever they
    are, as (scheme, host, port), port None for any; the host `*` is for every one that isn't
    internal. The addresses that are `named` are read whatever they are."""

    folders: tuple[Path, ...] = ()
    hosts: frozenset[tuple[str, str, int | None]] = frozenset()
    named: frozenset[str] = frozenset()
    hidden: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        allowed: Iterable[str],
        folders: Iterable[Path],
        named: Iterable[str],
        hidden: Iterable[Path],
    ) -> "Places":
        """Places with those of the option --allow: folders, and hosts as scheme://host:port."""
        below, hosts = [*folders], set()
        for text in allowed:
            if "://" in text:
                hosts.add(_host_of(text))
            elif os.path.isabs(text):
                below.append(Path(text))
            else:
                raise ConfigError(f"--allow {text}: a folder in full, or scheme://host:port")
        return cls(
            tuple(_real(folder) for folder in below),
            frozenset(hosts),
            frozenset(named),
            tuple(_real(folder) for folder in hidden),
        )

    def check(self, paths: str) -> None:
        """`ConfigError` unless a file and all of its replicas, divided by commas, may be read.

        What it says is the same whether there is such a file or not.
        """
        for address in paths.split(","):
            if address in self.named:
                continue
            if not (self._local(address) if address.startswith("/") else self._remote(address)):
                raise ConfigError(
                    f"file-list: {shown(address)}: this service doesn't read there; its operator "
                    "may allow it (--allow)"
                )

    def _local(self, path: str) -> bool:
        # libraries take these for another address within the name
        if "::" in path or "://" in path:
            return False
        try:
            real = _real(Path(path))
        except (OSError, ValueError, RuntimeError):
            return False
        closed = [folder for folder in NEVER if real.is_relative_to(folder)]
        return not any(real.is_relative_to(folder) for folder in self.hidden) and any(
            real.is_relative_to(folder) and all(folder.is_relative_to(of) for of in closed)
            for folder in self.folders
        )

    def _remote(self, address: str) -> bool:
        try:
            parts = urlsplit(address)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            return False
        if not host or "\\" in address or "::" in parts.path + parts.query + parts.fragment:
            return False
        if {(scheme, host, port), (scheme, host, None)} & self.hosts:
            return True
        return (scheme in SCHEMES or (scheme, "*", None) in self.hosts) and (
            scheme == "s3" or not _internal_name(host)
        )

    def guard(self) -> None:
        """Let this process, for good, connect to no internal address but those that are allowed.

        A name may stand for another address when it is read than when it was checked, and a server
        may redirect. This sees connections that Python makes: not XRootD's, nor those to a store.
        """
        there = {
            (str(found[4][0]), port)
            for _, host, port in self.hosts
            if host != "*"
            for found in _resolved(host)
        }

        def connects(event: str, given: tuple[Any, ...]) -> None:
            if event != "socket.connect" or not isinstance(given[1], tuple):
                return
            host, port = given[1][:2]
            if {(host, port), (host, None)} & there or not _internal_name(str(host)):
                return
            raise PermissionError(f"this service doesn't connect to {host}")

        sys.addaudithook(connects)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _host_of(text: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ConfigError(f"--allow {text}: this is no scheme://host:port")
    return parts.scheme, host, port


def _resolved(host: str) -> list[Any]:
    try:
        return socket.getaddrinfo(host, None)
    except OSError:
        return []


def _internal_name(host: str) -> bool:
    """Whether a host is written as an internal address, in any way that a resolver takes."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".localdomain")):
        return True
    address: Ip
    try:
        address = ip_address(name)
    except ValueError:
        try:
            # 127.1, 0x7f000001 and 2130706433 are addresses too
            address = IPv4Address(socket.inet_aton(name))
        except (OSError, ValueError):
            return False
    return _internal(address)


def _internal(address: Ip) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _internal(address.ipv4_mapped)
        if address in NAT64:
            return _internal(IPv4Address(int(address) & 0xFFFFFFFF))
    return any(address in network for network in INTERNAL)
