"""A run: its folder, its trainer, and everything that can happen to it.

- `folder`: `runs/NAME`, `runs/NAME-2`, ...; which of them to resume, and which run checkpoint.
- `lock`: one process trains in a run folder at a time.
- `manifest`: versions, machine and hashes of the base checkpoint.
- `trainer`: Lightning's trainer with the callbacks and loggers of every run.
- `stop_request`: Ctrl-C, signals of a scheduler and the time limit.
- `error_messages`: lost memory, data workers and ranks as one message each.

`dsvl_tune.api.fit` puts them together.
"""
