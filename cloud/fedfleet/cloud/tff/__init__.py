"""TensorFlow Federated behind our strategies, in a process of its own; docs/tff.md says what is equal to what."""
