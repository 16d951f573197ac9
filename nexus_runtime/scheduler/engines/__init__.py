"""Where workers are started: one file for each way, all with the same door (`base.Engine`)."""
