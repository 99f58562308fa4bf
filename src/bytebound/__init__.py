"""bytebound audits the memory wall: what models must move, what machines can move, what starves first, and what helps.

```python
import bytebound as bb
est = bb.estimate("meta-llama/Llama-3.1-70B", "4x h100-sxm", bb.Serve(batch=32, prompt=1024, output=256, tp=4, weights="fp8"))
est.verdict, est.tpot_s, est.memory
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bytebound.audit import audit_fleet
    from bytebound.documents.architecture import Architecture
    from bytebound.documents.audit import Audit
    from bytebound.documents.calibration import Calibration
    from bytebound.documents.correction import Correction
    from bytebound.documents.device import Device, Machine
    from bytebound.documents.estimate import Estimate
    from bytebound.documents.fleet import Fleet, read_fleet
    from bytebound.documents.lever import LeverRanking
    from bytebound.documents.observation import Observation, Run
    from bytebound.documents.plan import Plan
    from bytebound.documents.proof import Proof, Proofs
    from bytebound.documents.sweep import SweepSummary
    from bytebound.documents.trace import Trace
    from bytebound.documents.trace_estimate import TraceEstimate
    from bytebound.documents.training import TrainEstimate
    from bytebound.documents.validation import Validation
    from bytebound.documents.values import from_json, json_schema, to_json
    from bytebound.documents.watched import Watched
    from bytebound.documents.work import Serve, Train
    from bytebound.errors import ByteboundError
    from bytebound.facts.devices import find_device
    from bytebound.facts.machines import find_machine
    from bytebound.fitting.one_run import correct
    from bytebound.models import read_model
    from bytebound.observe.calibrate import calibrate
    from bytebound.observe.compare import observe_run
    from bytebound.observe.watch import watch
    from bytebound.plan.rank import rank_levers
    from bytebound.plan.search import find_plan
    from bytebound.predict import diagnose, estimate, fit
    from bytebound.predict.traced import estimate_trace
    from bytebound.predict.train_answers import train
    from bytebound.prove.ledger import prove_all, prove_lever
    from bytebound.sweep.run import sweep_fleet
    from bytebound.trace.target import trace_target

_HOMES = {
    "Architecture": "bytebound.documents.architecture",
    "Audit": "bytebound.documents.audit",
    "ByteboundError": "bytebound.errors",
    "Calibration": "bytebound.documents.calibration",
    "Correction": "bytebound.documents.correction",
    "Device": "bytebound.documents.device",
    "Estimate": "bytebound.documents.estimate",
    "Fleet": "bytebound.documents.fleet",
    "LeverRanking": "bytebound.documents.lever",
    "Machine": "bytebound.documents.device",
    "Observation": "bytebound.documents.observation",
    "Plan": "bytebound.documents.plan",
    "Proof": "bytebound.documents.proof",
    "Proofs": "bytebound.documents.proof",
    "Run": "bytebound.documents.observation",
    "Serve": "bytebound.documents.work",
    "SweepSummary": "bytebound.documents.sweep",
    "Trace": "bytebound.documents.trace",
    "TraceEstimate": "bytebound.documents.trace_estimate",
    "Train": "bytebound.documents.work",
    "TrainEstimate": "bytebound.documents.training",
    "Validation": "bytebound.documents.validation",
    "Watched": "bytebound.documents.watched",
    "audit_fleet": "bytebound.audit",
    "calibrate": "bytebound.observe.calibrate",
    "correct": "bytebound.fitting.one_run",
    "diagnose": "bytebound.predict",
    "estimate": "bytebound.predict",
    "estimate_trace": "bytebound.predict.traced",
    "find_device": "bytebound.facts.devices",
    "find_machine": "bytebound.facts.machines",
    "find_plan": "bytebound.plan.search",
    "fit": "bytebound.predict",
    "from_json": "bytebound.documents.values",
    "json_schema": "bytebound.documents.values",
    "observe_run": "bytebound.observe.compare",
    "prove_all": "bytebound.prove.ledger",
    "prove_lever": "bytebound.prove.ledger",
    "rank_levers": "bytebound.plan.rank",
    "read_fleet": "bytebound.documents.fleet",
    "read_model": "bytebound.models",
    "sweep_fleet": "bytebound.sweep.run",
    "to_json": "bytebound.documents.values",
    "trace_target": "bytebound.trace.target",
    "train": "bytebound.predict.train_answers",
    "watch": "bytebound.observe.watch",
}

__all__ = [
    "Architecture",
    "Audit",
    "ByteboundError",
    "Calibration",
    "Correction",
    "Device",
    "Estimate",
    "Fleet",
    "LeverRanking",
    "Machine",
    "Observation",
    "Plan",
    "Proof",
    "Proofs",
    "Run",
    "Serve",
    "SweepSummary",
    "Trace",
    "TraceEstimate",
    "Train",
    "TrainEstimate",
    "Validation",
    "Watched",
    "audit_fleet",
    "calibrate",
    "correct",
    "diagnose",
    "estimate",
    "estimate_trace",
    "find_device",
    "find_machine",
    "find_plan",
    "fit",
    "from_json",
    "json_schema",
    "observe_run",
    "prove_all",
    "prove_lever",
    "rank_levers",
    "read_fleet",
    "read_model",
    "sweep_fleet",
    "to_json",
    "trace_target",
    "train",
    "watch",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import bytebound`` stays light."""
    home = _HOMES.get(name)
    if home is None:
        message = f"module 'bytebound' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
