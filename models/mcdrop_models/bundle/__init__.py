"""Published bundles: their files, and how they are read and written."""
