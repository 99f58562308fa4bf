"""Ledger × machine -> Estimate: roofline with floors, verdict, elasticity, cost, energy, intervals."""

from bytebound.predict.diagnose import diagnose
from bytebound.predict.estimate import estimate, estimate_on
from bytebound.predict.fit import fit

__all__ = ["diagnose", "estimate", "estimate_on", "fit"]
