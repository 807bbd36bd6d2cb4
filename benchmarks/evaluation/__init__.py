"""Grid evaluation against the straightforward way: a call per target and head, the full network each time."""
