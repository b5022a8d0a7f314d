import platform
import subprocess
import sys

import pytest

KEPT = """
import torch
from pathlib import Path
from minimagen.device import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

if {keep}:
    keep_freed_memory()
before = resident()
tensors = [torch.ones(3 << 20) for _ in range(16)]  # 12 MiB each
del tensors
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told to keep memory")
@pytest.mark.parametrize("keep", [False, True])
def test_what_a_step_frees_stays_for_the_next_one(keep):
    """Of 192 MiB nothing is left after they are freed, or nearly all."""
    command = [sys.executable, "-c", KEPT.format(keep=keep)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = int(done.stdout)
    assert kept > 180 if keep else kept < 40
