"""An audit as SARIF 2.1.0, so that a code host shows what starves beside the fleet file that says so."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from bytebound.report.words import cheapest, clean, percent, saving, state_of, when

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bytebound.documents.audit import Audit, WorkloadAudit
    from bytebound.report.words import State

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: dict[State, str] = {"starves": "error", "soon": "warning", "risk": "note"}
RULES = {
    "capacity": "Memory capacity runs out",
    "memory-bandwidth": "Memory bandwidth runs out",
    "compute": "Arithmetic runs out",
    "links": "Links between devices run out",
    "overhead": "Time outside the kernels takes over",
    "objective": "No batch meets the latency objective",
    "devices": "The pool has too few devices",
    "budget": "The budget runs out",
    "power": "Power runs out",
}


def audit_sarif(audit: Audit, *, file: str | None = None, lines: Mapping[str, int] | None = None) -> str:
    """Return the audit as SARIF text.

    Args:
        audit: the audit.
        file: the fleet file as a relative path; default: the name the audit carries.
        lines: the line of the fleet file at which each workload starts; the first line where none is known.
    """
    place = file or clean(audit.run.get("file", "fleet.toml"))
    found = [w for w in audit.workloads if state_of(w) in LEVELS]
    rules = list(dict.fromkeys(rule_id(w) for w in found))
    log = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "bytebound", "rules": [_rule(name) for name in rules]}},
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(audit, w, rules=rules, file=place, line=(lines or {}).get(w.name, 1)) for w in found
                ],
            }
        ],
    }
    return json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def rule_id(workload: WorkloadAudit) -> str:
    """Return the stable id of what a workload starves on."""
    return f"BB-starves-{clean(workload.starves.resource or 'unknown')}"


def _rule(name: str) -> dict[str, Any]:
    resource = name.removeprefix("BB-starves-")
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.split("-")),
        "shortDescription": {"text": RULES.get(resource, f"Starves on {resource}")},
        "fullDescription": {"text": "Need passes supply within the horizon of the audit, at the stated objective."},
        "defaultConfiguration": {"level": "warning"},
    }


def _result(audit: Audit, workload: WorkloadAudit, *, rules: list[str], file: str, line: int) -> dict[str, Any]:
    rule, name = rule_id(workload), clean(workload.name)
    fix = cheapest(workload)
    advice = "no fix found" if fix is None else f"first fix: {clean(fix.title)} ({saving(fix.usd_per_month)})"
    text = (
        f"{name} starves {when(workload.starves, audit.months)} on {clean(workload.starves.resource or 'an unknown resource')}, "
        f"chance {percent(workload.starves.probability)} within {len(audit.months)} months; {advice}."
    )
    return {
        "ruleId": rule,
        "ruleIndex": rules.index(rule),
        "level": LEVELS[state_of(workload)],
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": file}, "region": {"startLine": line}},
                "logicalLocations": [{"name": name, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"workload/v1": hashlib.sha256(f"{file}\n{name}\n{rule}".encode()).hexdigest()},
    }
