"""The tests of the example are tests; and they take no time."""

import re
import subprocess
import sys
from pathlib import Path

from examples.testing_in_memory import (
    test_a_call_ends_at_its_deadline,
    test_a_hub_survives_a_quiet_night_and_a_cut,
    test_a_patient_caller_is_answered,
)

ROOT = Path(__file__).parents[2]

__all__ = [
    "test_a_call_ends_at_its_deadline",
    "test_a_hub_survives_a_quiet_night_and_a_cut",
    "test_a_patient_caller_is_answered",
]


def test_the_example_runs_as_a_program_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.testing_in_memory"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    hours = [int(each.replace(",", "")) / 3600 for each in re.findall(r"([\d,]+) s of virtual time", done.stdout)]
    assert [round(each) for each in hours] == [1, 2, 8]
