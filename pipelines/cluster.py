"""A Ray cluster before anything is sent to it: is its address one, does it answer, and which code do its nodes need.

Ray itself tries a dead address for two minutes, and a node imports whatever lies in its own Python.
"""

import importlib.util
import os
import re
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

from manifests import storage

PACKAGES = ("configs", "manifests", "shards", "asr", "pipelines")
ANSWER_S = 5.0  # to connect, and for the first bytes

_ADDRESS = re.compile(r"(?P<client>ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
# What a client of HTTP/2 says first (RFC 9113, section 3.4): the preface and an empty frame of settings. A server
# answers with a frame of its own settings, which has type 4.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER_BYTES, _SETTINGS = 9, 4


def check_address(address: str) -> None:
    """Raises ValueError where `address` is none, or nobody answers there as Ray does (gRPC, which is HTTP/2)."""
    if address == "auto":
        return
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(
            f"--ray-address {address}: must be ray://HOST:PORT (a cluster's client port, usually 10001), HOST:PORT "
            "(usually 6379, on a machine of the cluster), auto (the cluster that runs on this machine) or local"
        )
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0" and not _speaks_http2(connection):
                raise ValueError(f"--ray-address {address}: what answers there is not Ray; is it the right port?")
    except OSError as err:
        raise ValueError(f"--ray-address {address}: no Ray cluster answers there ({err.strerror or err})") from None


def _speaks_http2(connection: socket.socket) -> bool:
    connection.settimeout(ANSWER_S)
    connection.sendall(_PREFACE)
    header = b""
    while len(header) < _FRAME_HEADER_BYTES and (more := connection.recv(_FRAME_HEADER_BYTES - len(header))):
        header += more
    return len(header) == _FRAME_HEADER_BYTES and header[3] == _SETTINGS


def pack_code(path: str) -> None:
    """Write a zip of our packages as they are here: the same files give the same bytes, and nodes keep it by its hash.

    Only Python files and configs: a folder of data that lies in a package's folder, as that of `make demo`, stays here.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in PACKAGES:
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None
            root = Path(spec.origin).parent
            for file in _files(root, is_config=name == "configs"):
                info = zipfile.ZipInfo(f"{name}/{file.relative_to(root).as_posix()}")
                packed.writestr(info, storage.read_bytes(str(file)), zipfile.ZIP_DEFLATED)


def _files(folder: Path, is_config: bool) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (is_config or (path / "__init__.py").exists()):
            yield from _files(path, is_config)
        elif path.suffix == ".py" or (is_config and path.suffix == ".yaml"):
            yield path
