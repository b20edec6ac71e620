"""How processors run: fileset -> chunks -> accumulators, with a ledger of what was processed."""
