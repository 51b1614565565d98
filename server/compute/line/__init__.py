"""The line to a machine behind ssh: requests, what runs there for a lab, and our program put there. For every backend that needs it."""
