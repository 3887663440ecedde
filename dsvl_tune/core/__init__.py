"""Types, errors, files and caches that every package may import; imports nothing of ours."""
