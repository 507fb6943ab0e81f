"""What the cloud does to a round's model before devices get it: trains it on examples, or distils devices into it."""
