"""Owns how inputs are made and tried: seeds, mutation, the time limit of one run, shrinking.

Deterministic: the same seed gives the same inputs. Never looks at what the code does with them;
where coverage should guide the search, `python -m fuzz` hands over to atheris.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import pkgutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

FOLDER = Path(__file__).parent
RUN_LIMIT = 10  # seconds for one input: an honest one takes milliseconds, so longer is a hang
MAX_SIZE = 1 << 16  # bytes of an input; libFuzzer's default is 4 KiB, but several frames must fit

# Numbers at which length fields, opcodes and limits change their meaning.
_EDGES = (0, 1, 8, 9, 10, 13, 30, 31, 32, 58, 63, 64, 125, 126, 127, 128, 129, 136, 138, 192, 254, 255)
_WIDE_EDGES = (0, 1, 125, 126, 0x3FFF, 0x4000, 0x4001, 0x7FFF, 0xFFFF, 0x10000, 0xFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Target:
    """One fuzz target."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Crash:
    """An input that broke an invariant."""

    data: bytes
    signature: tuple[str, str, int]  # exception class, file, line: the same place is the same bug
    report: str


def target_names() -> list[str]:
    return sorted(info.name for info in pkgutil.iter_modules([str(FOLDER)]) if not info.name.startswith("_"))


def load_target(name: str) -> Target:
    """Import `fuzz.NAME` and read its corpus.

    Raises:
        ModuleNotFoundError: no such target.
    """
    module = importlib.import_module(f"fuzz.{name}")
    corpus = [path.read_bytes() for path in sorted((FOLDER / "corpora" / name).glob("*")) if path.is_file()]
    return Target(name, module.run, (*module.SEEDS, *corpus))


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def expire(signum: int, frame: FrameType | None) -> None:
        raise AssertionError(f"one input took more than {RUN_LIMIT} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(RUN_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a hostile input makes the engine log is no news."""
    logger = logging.getLogger("engine")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def attempt(target: Target, data: bytes) -> Crash | None:
    """Run one input."""
    try:
        with _time_limit(), _quiet():
            target.run(data)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Crash(data, (type(error).__name__, last.filename, last.lineno or 0), traceback.format_exc())
    return None


def inputs(target: Target, random: Random) -> Iterator[bytes]:
    """The seeds as they are, then mutations of them without end."""
    pool = list(target.seeds) or [b""]
    yield from pool
    while True:
        data = random.choice(pool)
        for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8, 20))):
            data = _mutate(data, pool, random)
        yield data[:MAX_SIZE]


def _mutate(data: bytes, pool: list[bytes], random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    end = min(len(data), start + random.choice((1, 1, 2, 4, 9, 16, 64, 4096)))
    head, part, tail = data[:start], data[start:end], data[end:]
    match random.randrange(11):
        case 0:  # flip a bit
            return head + bytes([part[0] ^ (1 << random.randrange(8))]) + data[start + 1 :] if part else data
        case 1:  # a byte at an edge
            return head + bytes([random.choice(_EDGES)]) + data[start + 1 :]
        case 2:  # any byte
            return head + random.randbytes(1) + data[start + 1 :]
        case 3:  # a wide number at an edge
            width = random.choice((2, 3, 4, 8))
            number = random.choice(_WIDE_EDGES) & ((1 << (8 * width)) - 1)
            return head + number.to_bytes(width, "big") + data[start + width :]
        case 4:  # lose a part
            return head + tail
        case 5:  # lose the end
            return head
        case 6:  # repeat a part
            return head + part * random.choice((2, 2, 3, 10, 100)) + tail
        case 7:  # move a part
            at = random.randrange(len(tail) + 1)
            return head + tail[:at] + part + tail[at:]
        case 8:  # insert noise
            return head + random.randbytes(random.choice((1, 2, 8, 32))) + part + tail
        case 9:  # go on with another input
            other = random.choice(pool)
            return head + other[random.randrange(len(other) + 1) :]
        case _:  # put another input in between
            return head + random.choice(pool) + part + tail


def shrink(target: Target, crash: Crash, seconds: float = 10.0) -> Crash:
    """Drop parts of the input as long as the same place still breaks."""
    give_up = time.monotonic() + seconds
    size = max(1, len(crash.data) // 2)
    while size:
        at = 0
        while at < len(crash.data) and time.monotonic() < give_up:
            again = attempt(target, crash.data[:at] + crash.data[at + size :])
            if again is not None and again.signature == crash.signature:
                crash = again
            else:
                at += size
        size //= 2
    return crash
