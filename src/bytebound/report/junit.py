"""An audit as JUnit XML: a workload is a test case, and fails when it starves within the threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from bytebound.report.words import cheapest, clean, percent, saving, when

if TYPE_CHECKING:
    from collections.abc import Collection

    from bytebound.documents.audit import Audit, WorkloadAudit


def audit_junit(audit: Audit, *, failing: Collection[str], within: int | None = None) -> str:
    """Return the audit as JUnit text.

    Args:
        audit: the audit.
        failing: the workloads that starve within the threshold.
        within: the threshold in months; default: the whole horizon.
    """
    months = len(audit.months) if within is None else within
    failures = sum(workload.name in failing for workload in audit.workloads)
    counts = f'tests="{len(audit.workloads)}" failures="{failures}" errors="0" skipped="0"'
    cases = "\n".join(_case(audit, w, failed=w.name in failing, months=months) for w in audit.workloads)
    suite = f'  <testsuite name={quoteattr(f"bytebound audit of {clean(audit.name)}")} {counts} time="0">\n{cases}\n  </testsuite>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="bytebound" {counts}>\n{suite}\n</testsuites>\n'


def _case(audit: Audit, workload: WorkloadAudit, *, failed: bool, months: int) -> str:
    head = f'    <testcase classname={quoteattr(f"pool.{clean(workload.pool)}")} name={quoteattr(clean(workload.name))} time="0"'
    facts = (
        f"starves: {when(workload.starves, audit.months)}; chance {percent(workload.starves.probability)}; "
        f"headroom now {percent(workload.headroom_now, signed=True)}; bound by {clean(workload.verdict_now)}"
    )
    if not failed:
        return f"{head}>\n      <system-out>{escape(facts)}</system-out>\n    </testcase>"
    fix = cheapest(workload)
    advice = "no fix found" if fix is None else f"first fix: {clean(fix.title)}, {saving(fix.usd_per_month)}"
    short = f"starves on {clean(workload.starves.resource or 'unknown')} within {months} months"
    return (
        f'{head}>\n      <failure type="starves" message={quoteattr(short)}>{escape(facts)}; {escape(advice)}</failure>\n'
        "    </testcase>"
    )
