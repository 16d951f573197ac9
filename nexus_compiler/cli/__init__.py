"""The `nexusc` command line: one file per command; parse here, work in the API."""
