"""The agent on the device: examples, training on a LiteRT runtime, and the loop that ties them to the bus."""
