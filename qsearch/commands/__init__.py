"""What the larger commands do, one file per command; `qsearch.cli` parses and prints."""
