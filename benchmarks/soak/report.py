"""What a run of the soak comes to: each promise with how often it was tried and how often it failed, and the facts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.soak.__main__ import Soak
    from benchmarks.soak.site import Server

TEST = "benchmarks/soak"
OWN = ("server killed", "server drained", "client killed", "state file damaged")  # the faults that the run itself makes
GROWN_S = 180.0  # age from which a server's memory is looked at
FLAT = 1.05  # median of its last third over that of its middle third
DEFECTS = ("request failed", "paging failed", "policy failed", "completion failed")  # what a server's log says of one


def promises(soak: Soak) -> list[dict[str, Any]]:
    n, servers = soak.counts(), soak.site.servers
    growth = growths(soak)
    codes = soak.site.codes
    defects = [line for server in servers for line in server.log().splitlines() if any(d in line for d in DEFECTS)]
    gone = n["lost"] + n["durable lost"]
    rows = [
        (
            "A session that was parked durably comes back after kill -9, and every session after SIGTERM",
            "sessions brought back",
            n["came back as promised"] + n["durable lost"],
            n["durable lost"],
        ),
        (
            "Whatever went on around it, a session gives to the bit what it gives alone",
            "comparisons",
            n["same"] + n["differs"],
            n["differs"],
        ),
        (
            "A session is gone by its owner, by a kill -9 before it was durable, or by a fault for which docs/faults.md says so",
            "sessions",
            n["begun"],
            gone,
        ),
        (
            "A damaged file is refused by name, and nothing is computed from it",
            "files",
            n["damaged, and refused by name"] + n["damage unnoticed"],
            n["damage unnoticed"],
        ),
        ("A session that was ended does not come back", "sessions", n["finished"] + n["cancelled"], n["came back"]),
        (
            "A wrong request is refused with its typed error",
            "requests",
            n["fault: bad request"],
            n["bad request taken"],
        ),
        ("Every request is answered, though the line breaks", "calls", calls(n), n["no answer"] + n["told ReplyGone"]),
        (
            "No defect is met: in no server's log, and by no client",
            "servers",
            len(servers),
            len(defects) + len(soak.broke_off),
        ),
        ("A server that is told to go ends with exit code 0", "servers", len(codes), sum(code != 0 for code in codes)),
        (
            f"The memory of a server older than {GROWN_S:g} s is flat: last third / middle third ≤ {FLAT}",
            "servers",
            len(growth),
            sum(one > FLAT for one in growth),
        ),
        (
            "When all sessions are over, every byte of every tier is free and no file is left",
            "runs",
            1,
            int(bool(soak.held or soak.left)),
        ),
    ]
    return [
        {"promise": promise, "test": TEST, "tried": tried, "failed": failed, "unit": unit}
        for promise, unit, tried, failed in rows
    ]


def facts(soak: Soak) -> dict[str, Any]:
    n, met = soak.counts(), soak.met()
    faults = {name: count for name, count in met.items() if name != "bad request"}
    return {
        "calls": calls(n),
        "calls_by_kind": {name.removeprefix("call: "): n[name] for name in sorted(n) if name.startswith("call: ")},
        "faults": sum(faults.values()),
        "faults_per_100_calls": round(100 * sum(faults.values()) / max(1, calls(n)), 2),
        "faults_by_kind": dict(sorted(faults.items())),
        "bad_requests": met["bad request"],
        "told": {name.removeprefix("told "): n[name] for name in sorted(n) if name.startswith("told ")},
        "sessions_begun": n["begun"],
        "of_these_forked": n["forked"],
        "sessions_by_end": {name: n[name] for name in ENDS},
        "durable_parks_acknowledged": n["acknowledged"],
        "came_back_unpromised": n["came back unpromised"],
        "servers": len(soak.site.servers),
        "rss_mb_last": [round(server.rss[-1][1] / 1e6) for server in soak.site.servers if server.rss],
        "rss_mb_of_grown_by_sixths": [sixths(server.rss) for server in soak.site.servers if grown(server)],
        "rss_growth_of_grown": [round(one, 4) for one in growths(soak)],
        "wrong": [*soak.tally.told, *soak.broke_off, *soak.held, *soak.left],
    }


ENDS = (
    *("finished", "cancelled", "ended", "gone as promised"),
    *("broken by a copy, as docs/faults.md says", "damaged, and refused by name", "lost", "durable lost"),
)


def calls(counts: dict[str, int]) -> int:
    return sum(count for name, count in counts.items() if name.startswith("call: "))


def grown(server: Server) -> bool:
    return bool(server.rss) and server.rss[-1][0] >= GROWN_S


def growths(soak: Soak) -> list[float]:
    """Of each server that grew old: the median of its resident bytes in its last third over that in its middle third."""
    found = []
    for server in filter(grown, soak.site.servers):
        rss = [nbytes for _, nbytes in server.rss]
        third = len(rss) // 3
        found.append(statistics.median(rss[-third:]) / statistics.median(rss[third:-third]))
    return found


def sixths(rss: Sequence[tuple[float, int]]) -> list[int]:
    """Median megabytes in each sixth of a life: what it comes to when its bounded memories are full."""
    part = len(rss) // 6
    return [round(statistics.median(nbytes for _, nbytes in rss[at * part : (at + 1) * part]) / 1e6) for at in range(6)]


def table(found: Sequence[dict[str, Any]], told: dict[str, Any]) -> str:
    lines = [f"{'tried':>8} {'failed':>7}  promise"]
    lines += [f"{one['tried']:>8} {one['failed']:>7}  {one['promise']} ({one['unit']})" for one in found]
    lines += [f"{name}: {value}" for name, value in told.items()]
    return "\n".join(lines)
