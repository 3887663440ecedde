"""Experiment trackers: what Lightning's loggers lack for a run that resumes and shows samples."""
