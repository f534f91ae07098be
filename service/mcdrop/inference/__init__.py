"""What waits, and who goes next. Nothing here knows torch or HTTP."""
