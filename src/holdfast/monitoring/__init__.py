"""Predictions and labels become a Report, a Report an Alert."""
