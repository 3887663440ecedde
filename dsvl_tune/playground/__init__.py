"""A local page to try a model on one's own pictures, and to keep questions and verdicts as rows."""
