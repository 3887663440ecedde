"""Types, errors, files and caches that every room may import; imports nothing of ours."""
