"""The command line: `main` finds the command, each module in `commands` parses, calls and prints."""
