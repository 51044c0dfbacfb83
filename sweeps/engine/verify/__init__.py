"""One logged trial, run again and compared."""
