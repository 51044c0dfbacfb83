"""Programs for the maintainers of this project; not installed."""
