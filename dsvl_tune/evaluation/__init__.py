"""Generated answers, their scores and baselines."""
