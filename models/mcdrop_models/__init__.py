"""Networks as published, versioned bundles: no pickle, and no code of a user when one is loaded."""
