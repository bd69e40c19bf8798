"""Between the calls and the ledger: batches, deadlines, limits and background work."""
