"""Analytic CPU schedules, one family a file."""
