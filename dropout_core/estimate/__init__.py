"""Folds passes into estimates."""
