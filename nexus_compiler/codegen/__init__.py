"""One room per target kind, all with the same door (`door.py`)."""
