"""What `fedfleet-agent doctor` and `fedfleet doctor` share: checks in their order, and the way to a broker."""
