"""Make every fault of tests/faults and print what came of it, as a table by kind.

    .venv/bin/python benchmarks/faults.py [KIND ...] [--json FILE] [--fast]

Each fault runs in a process of its own. It is handled where the exit code and the message are those
that its table names, within its limits of time and memory. Otherwise it is silent (exit code 0
without the word that was due), a traceback, a hang, too costly, or has another message. The last
table lists the fault catalogue (D data, T training, C checkpoints and model files) and the cases
that answer each id. The exit code is 1 unless all are handled.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / "faults")]

from fault_harness import Fault, Outcome, all_faults, run  # type: ignore[import-not-found]  # noqa: E402

VERDICTS = ("handled", "silent", "traceback", "hang", "cost", "message")
CATALOGUE = [
    f"{letter}{n}" for letter, last in (("D", 27), ("T", 19), ("C", 9)) for n in range(1, last + 1)
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="the part of a case's name before the slash")
    parser.add_argument("--json", type=Path, help="file for every outcome")
    parser.add_argument("--fast", action="store_true", help="leave the slow cases out")
    options = parser.parse_args()
    faults = [
        fault
        for fault in all_faults()
        if (not options.kinds or fault.name.partition("/")[0] in options.kinds)
        and not (options.fast and fault.slow)
    ]
    outcomes = run_all(faults)
    print_kinds(outcomes)
    print_catalogue(outcomes)
    if options.json:
        rows = [{"name": fault.name, **asdict(outcome)} for fault, outcome in outcomes]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(outcome.verdict == "handled" for _, outcome in outcomes) else 1


def run_all(faults: list[Fault]) -> list[tuple[Fault, Outcome]]:
    """Run the faults one after the other; name at once what is not handled."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for number, fault in enumerate(faults):
            outcome = run(fault, Path(folder) / f"{number:04d}")
            outcomes.append((fault, outcome))
            if outcome.verdict != "handled":
                print(f"{outcome.verdict}: {fault.name}: {outcome.detail[-1000:]}", flush=True)
            elif number % 50 == 49:
                print(f"{number + 1} of {len(faults)}", file=sys.stderr, flush=True)
    return outcomes


def print_kinds(outcomes: list[tuple[Fault, Outcome]]) -> None:
    """Print the number of cases and of each verdict, by kind."""
    counts: dict[str, Counter[str]] = {}
    for fault, outcome in outcomes:
        counts.setdefault(fault.name.partition("/")[0], Counter())[outcome.verdict] += 1
    print(f"| {'kind':24} | cases | " + " | ".join(VERDICTS) + " |")
    print("|---|--:|" + "--:|" * len(VERDICTS))
    counts["all"] = sum(counts.values(), Counter())
    for kind, found in counts.items():
        numbers = " | ".join(f"{found[verdict]:{len(verdict)}}" for verdict in VERDICTS)
        print(f"| {kind:24} | {found.total():5} | {numbers} |")


def print_catalogue(outcomes: list[tuple[Fault, Outcome]]) -> None:
    """Print by which cases each id of the catalogue is answered, and whether all are handled."""
    print("\nfault catalogue: id, cases, handled")
    answered = 0
    for identity in CATALOGUE:
        verdicts = [o.verdict for fault, o in outcomes if identity in fault.catalogue.split()]
        answered += bool(verdicts) and set(verdicts) == {"handled"}
        print(f"{identity:4} {len(verdicts):3} {verdicts.count('handled'):3}")
    print(f"handled: {answered} of {len(CATALOGUE)} ids")


if __name__ == "__main__":
    raise SystemExit(main())
