"""A fleet in virtual time: the same agents and aggregator, a seeded clock, and an air that loses and delays."""
