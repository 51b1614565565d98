"""What a person opens in a browser: the lab, live. It reads what the tools read, and changes only what its owner could from a terminal."""
