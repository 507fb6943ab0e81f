"""Who may be in a fleet: the authority that certifies, the ledger that remembers, the desk that devices ask."""
