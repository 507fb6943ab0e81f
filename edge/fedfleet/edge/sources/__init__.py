"""Where a device's examples come from while it runs: files in a folder, readings over MQTT, a function of its owner."""
