"""The asv suites; README.md says what is counted."""
