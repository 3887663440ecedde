"""The command line: `main` finds a command; modules in `commands` parse, call and print."""
