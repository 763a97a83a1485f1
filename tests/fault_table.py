"""docs/faults.md, made of what the fault tests of one run recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

PATH = Path(__file__).parent.parent / "docs" / "faults.md"
HEAD = """# Faults, injected

Made by `make test ARGS='tests/test_faults.py --write-faults'`: not written by hand. A server of tiny-llama, three other sessions
on the device, in the host pool and on the disk; in each case the fault lasts as long as the step. Then the three others go on
to the bit, the session itself is asked again and goes on to the bit, all are closed, and every byte of every tier is free again.

- **done**: the step does not meet the fault, or goes round it.
- **an error's name**: what the one who asked was told; the session is unharmed, and the same call serves once the fault is over.
- **lost**: the session is `failed`: its only file is damaged (and kept), or a copy broke under a pass that ran already.
"""


@dataclass
class FaultRecord:
    """What the tests of this run saw: (step, fault) -> what came of it."""

    cases: dict[tuple[str, str], str] = field(default_factory=dict)
    # May be met without a refusal: the session stays where it is, or somebody makes room by way of the disk.
    absorbed: frozenset[str] = frozenset({"copy out fails", "copy out not queued", "host refused"})

    def write(self) -> None:
        from fault_steps import STEPS  # with torch: not for every test that asks for a fixture
        from faults import FAULTS

        missing = [(s.name, f.name) for s in STEPS for f in FAULTS if (s.name, f.name) not in self.cases]
        assert not missing, f"--write-faults needs the whole of tests/test_faults.py to pass; missing: {missing}"
        kinds = Counter("lost" if what.startswith("lost") else what for what in self.cases.values())
        told = ", ".join(f"{count} {what}" for what, count in kinds.most_common())
        lines = [
            HEAD,
            f"{len(self.cases)} cases: {told}. In all of them the others were unharmed and the accounts balanced.\n",
        ]
        lines.append("| fault ＼ step | " + " | ".join(step.name for step in STEPS) + " |")
        lines.append("|---" * (len(STEPS) + 1) + "|")
        for fault in FAULTS:
            cells = " | ".join(self.cases[step.name, fault.name] for step in STEPS)
            lines.append(f"| {fault.name} | {cells} |")
        PATH.write_text("\n".join(lines) + "\n")
