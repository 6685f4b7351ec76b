"""Everything that the doctor can explain: one table, first match wins.

Each row is provoked for real in tests/cli, and named in docs/doctor.md.
"""

from __future__ import annotations

from grpclb.cli.explanations.calling import CALLING
from grpclb.cli.explanations.checking import CHECKING
from grpclb.cli.explanations.connecting import CONNECTING
from grpclb.cli.explanations.naming import NAMING
from grpclb.cli.explanations.resolving import RESOLVING
from grpclb.cli.rules import Rule

RULES: tuple[Rule, ...] = (*RESOLVING, *NAMING, *CONNECTING, *CHECKING, *CALLING)
