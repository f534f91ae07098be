"""Loads bundles into memory as predictors."""
