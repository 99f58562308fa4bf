"""Ledger × machine -> Estimate: roofline with floors, verdict, elasticity, cost, energy, intervals."""

from bytebound.predict.estimate import estimate, estimate_on
from bytebound.predict.fit import fit

__all__ = ["estimate", "estimate_on", "fit"]
