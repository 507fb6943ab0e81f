"""Staged rollouts: a new version goes to one group after the other, and comes back by itself where it fails."""
