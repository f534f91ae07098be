"""Loads bundles as predictors."""
