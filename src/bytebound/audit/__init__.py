"""Fleet × months -> which workload starves first, on what, when, and the cheapest fix."""

from bytebound.audit.run import audit_fleet, starving

__all__ = ["audit_fleet", "starving"]
