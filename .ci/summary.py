"""Add up the JUnit reports of a CI run, and refuse skips that CI had no reason for.

    python .ci/summary.py DIRECTORY

A test may skip only for what no installation can change, and says so with a reason that begins
with ``platform:``. Every other skip is listed and makes the exit code 1, as does a run of no test.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def main(directory: Path) -> int:
    """Print the closing line for the reports in `directory`; return the exit code."""
    totals: Counter[str] = Counter()
    needless: list[str] = []
    for report in sorted(directory.glob("*.xml")):
        for case in ElementTree.parse(report).iter("testcase"):
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                totals["failed"] += 1
            elif skip is None or skip.get("type") == "pytest.xfail":
                totals["passed"] += 1
            else:
                totals["skipped"] += 1
                reason = skip.get("message", "")
                if not reason.startswith("platform:"):
                    needless.append(f"{case.get('classname')}.{case.get('name')}: {reason}")
    for line in needless:
        print(f"skipped without need: {line}")
    print(f"{totals['passed']} passed, {totals['failed']} failed, {totals['skipped']} skipped")
    return 1 if needless or totals["failed"] or not totals["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
