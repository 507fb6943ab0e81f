"""Updates of the agent over the air: signed as TUF says, put beside the old version, tried, and kept or not."""
