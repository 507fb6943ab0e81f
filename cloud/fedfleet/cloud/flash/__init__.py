"""Cards: the settings of a device, written onto Raspberry Pi OS in the form that its release reads."""
