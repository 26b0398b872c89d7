"""The ground that every room stands on: bounds, choices, files, metric names, the optimizer, style and tables."""
