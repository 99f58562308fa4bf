"""Fleet × months -> which workload starves first, on what, when, and the cheapest fix."""

from bytebound.audit.run import run, run_fleet, starving

__all__ = ["run", "run_fleet", "starving"]
