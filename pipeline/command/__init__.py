"""Command-line parsing, error messages, exit statuses, signals and privacy."""
