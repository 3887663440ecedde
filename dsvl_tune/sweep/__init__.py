"""Sweeps: the same recipe with several values of some keys, each trial an ordinary run.

- `space`: the values to try, as they are typed or written in YAML.
- `folder`: how it is recognized.
- `definition`: what a sweep is, in its folder.
- `plan`: a command line to a sweep, and what it will do.
- `study`: Optuna's study of a sweep, which chooses values and remembers figures.
- `recipes`: the recipe of each trial, checked before the first one starts.
- `trial`: one trial, in a process of its own.
- `run_sweep`: one trial after the other.
- `record`: what the report and the terminal show.
"""
