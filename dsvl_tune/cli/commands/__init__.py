"""The commands of the command line, one module each: it parses, calls a function and prints."""
