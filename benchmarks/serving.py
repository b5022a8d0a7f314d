"""The page, served by its command in a process of its own: for benchmarks and tests."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0  # s
STDERR = 2  # where its output goes: rows of benchmarks go to standard output


def start(root: Path | None = None, where: Path = ROOT) -> tuple["subprocess.Popen[bytes]", str]:
    """Serve what is under ``root``, or what is bundled, from the working directory ``where``.

    Returns:
        The process and the page's URL, once its port is open.

    Raises:
        RuntimeError: The command has ended, or its port is not open after a minute.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "minimagen", "ui", "--PORT", str(port), "--DEVICE", "cpu"]
    command += [] if root is None else ["--ROOT", str(root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=where, env=environment, stdout=STDERR)
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}/"
        time.sleep(0.02)
    stop(server)
    raise RuntimeError("the page's command has ended, or its port did not open")


def stop(server: "subprocess.Popen[bytes]") -> None:
    """End the process, by force where it does not end by itself."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait(20)
