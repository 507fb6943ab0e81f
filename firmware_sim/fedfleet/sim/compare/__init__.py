"""The same task and data, trained in every way there is, and what each of them cost."""
