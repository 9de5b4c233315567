"""What the allocator does after it was told: in a process of its own, since the setting stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from finetune.kernels import give_back_freed_memory, keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(4 << 20)  # 16 MiB, at once free again
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

torch.ones(4 << 20)
plain = faults_of_a_step()
keep_freed_memory()
faults_of_a_step()
kept = faults_of_a_step()
several = [torch.ones(4 << 20) for _ in range(10)]
del several
before = held()
give_back_freed_memory()
print(plain, kept, before - held())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again_and_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    plain, kept, returned = map(float, done.stdout.split())
    assert kept < 100 < plain  # pages that the system had to clear
    assert returned > 100  # of 160 MiB
