"""Settings shared by all tests: deterministic, unhurried property tests."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "bytebound", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("bytebound")
