"""How any processor runs: fileset -> chunks -> accumulators, with a ledger of what was done."""
