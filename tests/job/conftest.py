"""`pytest tests/job/test_fuzz.py --hypothesis-profile=fuzz` runs until it is stopped or finds something."""

from hypothesis import settings

settings.register_profile("fuzz", max_examples=100_000_000, deadline=None, print_blob=True)
