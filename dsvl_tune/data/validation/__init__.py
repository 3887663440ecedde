"""Row validation, statistics and leakage."""
