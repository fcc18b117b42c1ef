"""The report: the history of a period as one HTML file that needs nothing beside it."""
