"""From a command line to a config and an exit status: parsing, messages, signals, privacy."""
