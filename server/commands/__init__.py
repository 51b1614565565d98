"""What a person runs at the command line, a module a command."""
