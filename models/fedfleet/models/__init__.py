"""Keras model in, device program out: training on LiteRT builtins alone, no Flex ops."""
