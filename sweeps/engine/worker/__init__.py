"""One trial, in the process that trains it."""
