"""The layers of `GraphBuilder`, one file a family: what each is, and the call that adds it."""
