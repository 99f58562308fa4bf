"""SARIF and JUnit: stable ids, stable fingerprints, valid structure, hostile names."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

import fabricated

from bytebound.documents.audit import Starves
from bytebound.report.junit import audit_junit
from bytebound.report.sarif import audit_sarif

HOSTILE = "<script>alert(1)</script>&\"'"


def results(audit, **options):
    """The results of the only run."""
    return json.loads(audit_sarif(audit, **options))["runs"][0]["results"]


def test_sarif_lists_what_starves_by_urgency():
    """Now is an error, likely a warning, possible a note; what lasts is no result."""
    found = results(fabricated.audit())

    assert [(r["ruleId"], r["level"], r["locations"][0]["logicalLocations"][0]["name"]) for r in found] == [
        ("BB-starves-memory-bandwidth", "error", "chat-70b"),
        ("BB-starves-capacity", "warning", "rag-long-context"),
        ("BB-starves-compute", "note", "moe-two-nodes"),
    ]
    assert found[1]["message"]["text"] == (
        "rag-long-context starves Jun 2027 (Mar 2027 – Nov 2027) on capacity, chance 83 % within 18 months; "
        "first fix: Store weights in fp8 (saves $2 000/month)."
    )


def test_sarif_has_the_shape_of_its_standard():
    """Version, tool, rules by index, places with a line: what SARIF 2.1.0 requires of these objects."""
    log = json.loads(audit_sarif(fabricated.audit(), file="fleet.toml", lines={"chat-70b": 14}))
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]

    assert log["version"] == "2.1.0"
    assert [r["ruleId"] for r in run["results"]] == [rules[r["ruleIndex"]]["id"] for r in run["results"]]
    places = [r["locations"][0]["physicalLocation"] for r in run["results"]]
    assert [p["region"]["startLine"] for p in places] == [14, 1, 1]
    assert {p["artifactLocation"]["uri"] for p in places} == {"fleet.toml"}


def test_fingerprints_outlive_a_change_of_numbers():
    """The same workload on the same resource keeps its alert; another resource is another alert."""
    base = fabricated.audit()
    changed = replace(
        base,
        workloads=tuple(
            replace(w, headroom_now=w.headroom_now - 0.01, starves=replace(w.starves, probability=0.9))
            for w in base.workloads[:3]
        ),
    )
    moved = replace(base, workloads=(replace(base.workloads[0], starves=Starves(1.0, 0, 0, 0, "power")),))

    def prints(audit):
        return [r["partialFingerprints"]["workload/v1"] for r in results(audit)]

    assert prints(changed) == prints(base)
    assert prints(moved)[0] != prints(base)[0]
    assert len(set(prints(base))) == 3


def test_junit_counts_and_names():
    """A workload is a test case of its pool; those starving within the threshold fail, with the first fix."""
    root = ET.fromstring(audit_junit(fabricated.audit(), failing=["chat-70b"], within=6).encode())  # noqa: S314 - our own text
    cases = root.findall("testsuite/testcase")

    assert (root.get("tests"), root.get("failures")) == ("10", "1")
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["chat-70b"]
    failure = cases[0].find("failure")
    assert failure.get("message") == "starves on memory-bandwidth within 6 months"
    assert failure.text.endswith("first fix: Store weights in fp8, saves $2 000/month")
    assert cases[0].get("classname") == "pool.main"


def test_hostile_names_stay_names():
    """Markup in a name is escaped in XML and quoted in JSON."""
    audit = replace(fabricated.audit(), workloads=(fabricated.workload(HOSTILE, headroom_now=-1.0),))
    root = ET.fromstring(audit_junit(audit, failing=[HOSTILE]).encode())  # noqa: S314 - our own text

    assert root.find("testsuite/testcase").get("name") == HOSTILE
    assert results(audit)[0]["locations"][0]["logicalLocations"][0]["name"] == HOSTILE
