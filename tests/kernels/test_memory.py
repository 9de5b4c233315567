"""What the allocator does after it was told: in a process of its own, since the setting stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.kernels import release_mapped

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


def resident(tensor: torch.Tensor) -> int:
    """KiB of the mapping that a tensor begins in which are in memory."""
    wanted = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if "-" in word:
            first, _, end = word.partition("-")
            wanted = int(first, 16) <= tensor.data_ptr() < int(end, 16)
        elif wanted and word == "Rss:":
            return int(rest.split()[0])
    raise AssertionError("no mapping has it")


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="Linux tells what is in memory")
def test_only_memory_that_is_a_files_own_is_given_back(tmp_path: Path) -> None:
    values = torch.arange(3 << 18, dtype=torch.float32)
    save_file({"before": values, "tensor": values + 1, "after": values + 2}, tmp_path / "file.safetensors")
    mapped = load_file(tmp_path / "file.safetensors")
    assert all(bool((tensor.diff() == 1).all()) for tensor in mapped.values())  # all of it is in memory now
    release_mapped(mapped["tensor"])
    assert 2 * 3072 <= resident(mapped["tensor"]) < 2 * 3072 + 64
    assert torch.equal(mapped["tensor"], values + 1)
    mapped["tensor"][7] = -1.0  # in this process only, not in the file
    release_mapped(mapped["tensor"])
    assert mapped["tensor"][7] == -1
    own = values.clone()
    release_mapped(own)
    assert torch.equal(own, values)
