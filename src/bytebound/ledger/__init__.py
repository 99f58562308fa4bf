"""What must be held, moved and computed, operator by operator. The ledger knows no hardware."""
