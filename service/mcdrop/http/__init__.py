"""HTTP parts that every API shares."""
