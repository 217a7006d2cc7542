"""Number formats: which values are stored and computed in fewer bits."""
