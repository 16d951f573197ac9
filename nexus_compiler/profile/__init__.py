"""Where the time of a module goes, held against what the machine can do."""
