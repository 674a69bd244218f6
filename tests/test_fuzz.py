"""A short, seeded part of `fuzz.py`."""

from fuzz import fuzz


def test_damaged_files_are_read_or_refused(tmp_path):
    found = fuzz(4000, 1, tmp_path)
    assert all(outcomes["refused"] > 100 for outcomes in found.values())
