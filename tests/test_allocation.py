"""Freed memory is asked for again without the system: pages of a block that was freed are not mapped anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fsgen.cli.allocation import keep_freed_memory

FAULTS = """
import resource, torch
from fsgen.cli.allocation import keep_freed_memory
if {kept}:
    keep_freed_memory()
def once():
    return torch.ones(30_000_000)  # 120 MB
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: bool) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(kept=kept)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="no glibc, or one that refuses")
def test_a_block_that_was_freed_is_used_again() -> None:
    assert faults(kept=True) < 0.5 * faults(kept=False)
