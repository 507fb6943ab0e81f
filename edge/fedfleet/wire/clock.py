"""Boards without a clock of their own begin in the past, until the network has told them the time."""

CLOCK_SET = 1_704_067_200.0  # 2024-01-01: whoever believes that it is earlier has not been told the time
