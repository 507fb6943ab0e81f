"""Learning without a server: devices average with their neighbours (Lian et al. 2017)."""
