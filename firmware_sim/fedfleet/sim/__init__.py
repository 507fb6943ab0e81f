"""Boards we do not have: data sets, splits, whole fleets on one machine, and what they report."""
