"""Each fuzz target holds for its seeds and some hundred mutations, the same ones every time."""

from itertools import islice
from random import Random

import pytest

from fuzz._mutate import attempt, inputs, load_target, target_names

ITERATIONS = 300


@pytest.mark.parametrize("name", target_names())
def test_the_target_holds_for_its_seeds_and_for_mutations_of_them(name: str) -> None:
    target = load_target(name)
    assert target.seeds, f"fuzz/{name}.py has no SEEDS"
    for data in islice(inputs(target, Random(name)), len(target.seeds) + ITERATIONS):
        crash = attempt(target, data)
        assert crash is None, f"{data!r} breaks {name}:\n{crash.report}"
