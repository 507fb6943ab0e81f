"""Central training on `tf.distribute`: what there is to do (`job`), and for each strategy a file that does it."""
