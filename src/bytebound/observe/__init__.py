"""Where a real run stands: its record beside the ledger, the measured ceilings and our own prediction."""
