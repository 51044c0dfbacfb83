"""What is on disk and in the ledger."""
