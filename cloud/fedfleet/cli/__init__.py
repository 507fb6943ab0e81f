"""The operator's door: `fedfleet <verb>` parses, calls and prints."""
