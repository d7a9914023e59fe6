"""Fuzz targets, one per wire module: `python -m fuzz TARGET --time 60`.

A target is a module here with `SEEDS: list[bytes]` and `run(data: bytes) -> None`, which raises
AssertionError where an invariant breaks. Further inputs may lie in `fuzz/corpora/TARGET/`.
"""
