"""Image references to pixels or cached features."""
