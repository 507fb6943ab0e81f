"""What a board is given: the agent and its wheels for the board's Python, and the script that puts them in place."""
