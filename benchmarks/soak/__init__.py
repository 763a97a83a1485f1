"""Half an hour of everything at once, with faults: what was promised, held against what came back (docs/reliability.md)."""
