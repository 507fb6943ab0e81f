"""`fedfleet-agent doctor`: what keeps this device from training, one cause for each broken thing, with its fix."""
