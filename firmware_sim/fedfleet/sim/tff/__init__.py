"""The engine `tff`: a run's fleet as clients of TensorFlow Federated, with the same batches as devices have."""
