"""The aggregator: rounds, exact sums, strategies, the journal and the evaluation of global models."""
