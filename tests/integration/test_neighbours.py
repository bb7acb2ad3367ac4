"""Other users of the machine, beside a whole run: they can neither enter Ray's folder nor use its ports."""

import os
import socket
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from impala_mi.host import reaper
from tests.integration.session import all_actors_of

pytestmark = pytest.mark.integration

METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo", "ActorInfoGcsService/RegisterActor", "InternalKVGcsService/InternalKVPut",
    "CoreWorkerService/PushTask", "NodeManagerService/RequestWorkerLease", "ObjectManagerService/Push",
    "ReporterService/GetTraceback",
)  # fmt: skip
"""Calls by which a stranger could run code or read objects, of each of Ray's services that runs use."""
NOBODY = 65534


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def as_nobody(call) -> str:
    """Name of the exception that a call raises as the user nobody, or the empty text."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        name = ""
        try:
            call()
        except BaseException as e:
            name = type(e).__name__
        os.write(write_end, name.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as file:
        name = file.read()
    os.waitpid(pid, 0)
    return name


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)


def answers(port: int, token: str | None) -> list[str]:
    """Status codes of the calls that the server at a port knows."""
    import grpc

    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    codes = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=5, metadata=metadata)
                codes.append("OK")
            except grpc.RpcError as e:
                codes.append(e.code().name)
    return [code for code in codes if code not in ("UNIMPLEMENTED", "UNAVAILABLE")]


def test_other_users_can_neither_enter_nor_ask(session):
    process = session.train("actors.count=1")
    [actor] = all_actors_of(process, 1)
    folder = Path(actor.environ()[reaper.MARK])
    token = (folder / "token").read_text()

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    files = [path for path in folder.rglob("*") if path.is_file()]
    sockets = [path for path in folder.rglob("*") if path.is_socket()]
    assert len(files) > 10
    assert {path.name for path in sockets} >= {"plasma_store", "raylet"}, "Ray's sockets are in the folder"
    assert not [path for path in files if path.name != "token" and token.encode() in path.read_bytes()]
    for member in family(process):  # command lines are open to all, environments to this user only
        assert token not in " ".join(member.cmdline()), member
        assert token not in " ".join(member.environ().values()), member

    if os.geteuid() == 0:
        assert as_nobody(lambda: os.listdir("/tmp")) == "", "what all may do works"
        assert as_nobody(lambda: os.listdir(folder)) == "PermissionError"
        for path in files:
            assert as_nobody(path.read_bytes) == "PermissionError", path
        for path in sockets:
            assert as_nobody(lambda path=path: connect(str(path))) == "PermissionError", path
        for member in family(process):
            assert as_nobody(Path(f"/proc/{member.pid}/environ").read_bytes) == "PermissionError"

    pids = {member.pid for member in family(process)}
    listening = [c for c in psutil.net_connections("inet") if c.pid in pids and c.status == psutil.CONN_LISTEN]
    refused = {port: codes for port in {c.laddr.port for c in listening} if (codes := answers(port, None))}
    assert len(refused) >= 5, "GCS, raylet, its object manager, the actor, the learner"
    assert {code for codes in refused.values() for code in codes} == {"UNAUTHENTICATED"}
    gcs = int(next(path for path in files if path.name.startswith("gcs_server_port")).read_text())
    assert set(answers(gcs, "0" * 64)) == {"UNAUTHENTICATED"}
    assert "OK" in answers(gcs, token), "the token is what was missing"
    session.stop(process)
    assert not folder.exists()
