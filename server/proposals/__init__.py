"""From an agent's text to a commit: patches, their checks, and the repository."""
