"""Devices as containers: each has its own memory, its share of a processor, its network, and its examples."""
