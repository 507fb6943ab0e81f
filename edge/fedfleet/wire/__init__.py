"""What edge and cloud say to each other: frames, messages, topics and the buses that carry them."""
