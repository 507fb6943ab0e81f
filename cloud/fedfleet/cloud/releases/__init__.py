"""Releases of the agent: signed in a repository of The Update Framework, and handed out by the broker."""
