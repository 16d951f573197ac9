"""What a build would do, and why: regions on record, what differs, what is rebuilt."""
