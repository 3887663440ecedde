"""Run folder, lock, manifest, stop requests and error messages."""
