"""`python -m fuzz TARGET --time 60 [--seed N]`, `python -m fuzz all`, `python -m fuzz TARGET --input FILE`.

Inputs that break an invariant are shrunk and saved under `fuzz/crashes/`; the exit code is then 1.
With atheris installed (and no --seed) the search is guided by coverage.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from fuzz._mutate import FOLDER, MAX_SIZE, Crash, attempt, inputs, load_target, shrink, target_names

MAX_CRASHES = 10  # different places; more would only bury the first


def main() -> int:
    arguments = _parse()
    if arguments.target == "all":
        return _run_all(arguments)
    if arguments.input is not None:
        return _run_file(arguments.target, arguments.input)
    if arguments.seed is None and importlib.util.find_spec("atheris") is not None:
        return _run_atheris(arguments.target, arguments.time)
    return _run_random(arguments.target, arguments.time, arguments.seed or 0)


def _parse() -> argparse.Namespace:
    names = target_names()
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=f"Targets: {', '.join(names) or 'none yet'}.")
    parser.add_argument("target", choices=[*names, "all"], metavar="TARGET")
    parser.add_argument("--time", type=float, default=60.0, help="seconds for each target (default 60)")
    parser.add_argument("--seed", type=int, help="seed of the random mutations (default 0)")
    parser.add_argument("--input", type=Path, help="run one saved input")
    return parser.parse_args()


def _run_all(arguments: argparse.Namespace) -> int:
    worst = 0
    for name in target_names():
        command = [sys.executable, "-m", "fuzz", name, "--time", str(arguments.time)]
        if arguments.seed is not None:
            command += ["--seed", str(arguments.seed)]
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return min(worst, 1)


def _run_file(name: str, path: Path) -> int:
    crash = attempt(load_target(name), path.read_bytes())
    print(crash.report if crash else f"{name}: {path} breaks nothing")
    return int(crash is not None)


def _run_random(name: str, seconds: float, seed: int) -> int:
    target = load_target(name)
    found: dict[tuple[str, str, int], Crash] = {}
    started = time.monotonic()
    runs = 0
    for data in inputs(target, Random(f"{name}:{seed}")):
        if time.monotonic() - started > seconds or len(found) >= MAX_CRASHES:
            break
        runs += 1
        crash = attempt(target, data)
        if crash is not None and crash.signature not in found:
            found[crash.signature] = crash
            _save(name, shrink(target, crash))
    elapsed = time.monotonic() - started
    print(f"{name}: {runs} inputs in {elapsed:.0f} s ({runs / elapsed:,.0f}/s), seed {seed}, {len(found)} crashes")
    return int(bool(found))


def _save(name: str, crash: Crash) -> None:
    folder = FOLDER / "crashes"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(crash.data).hexdigest()[:12]}"
    path.write_bytes(crash.data)
    print(f"{crash.report}\n{name}: saved {len(crash.data)} bytes; again: python -m fuzz {name} --input {path}")


def _run_atheris(name: str, seconds: float) -> int:
    import atheris

    with atheris.instrument_imports(include=["engine", "h11", "h2", "hpack", "hyperframe", "wsproto"]):
        target = load_target(name)
    corpus = FOLDER / "crashes" / f".corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = [f"-max_total_time={seconds:.0f}", f"-max_len={MAX_SIZE}", f"-artifact_prefix={FOLDER}/crashes/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()  # does not return
    return 0


if __name__ == "__main__":
    sys.exit(main())
