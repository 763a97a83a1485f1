"""The speed of one card against its ceilings: every row of docs/performance.md, raw results first, the table from them.

    python -m benchmarks.metal --out raw/1 --rows ceilings,resume,oversub
    python -m benchmarks.metal.table raw/1 raw/2 raw/3

What each number means stands in rows.py; a group of rows measures what shares a server and writes one raw file.
"""
