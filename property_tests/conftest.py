"""Hypothesis settings: enough examples for every run, more by a profile.

`pytest property_tests --hypothesis-profile soak` runs many more.
"""

from hypothesis import HealthCheck, settings

_slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "evsrc", deadline=None, max_examples=100, suppress_health_check=_slow
)
settings.register_profile(
    "soak", deadline=None, max_examples=5000, suppress_health_check=_slow
)
settings.load_profile("evsrc")
