"""The lab's use cases, which the tools and the commands call."""
