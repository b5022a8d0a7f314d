"""The page, served by the command in a process of its own: gradio leaves sockets open."""

import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(root: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Serve what is under ``root``; return the process and the address once it answers."""
    port = _free_port()
    command = ["ui", "--ROOT", str(root), "--PORT", str(port), "--DEVICE", "cpu"]
    server = subprocess.Popen([sys.executable, "-m", "minimagen", *command], cwd=ROOT)
    try:
        _wait(server, port)
    except AssertionError:
        server.kill()
        server.wait(20)
        raise
    return server, f"http://127.0.0.1:{port}/"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the command has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("no answer in 60 seconds")
