"""`fedfleet doctor`: what is wrong with an aggregator, its broker or its authority, one cause for each broken thing."""
