"""/rank: which rows of a pool a human should label next."""
