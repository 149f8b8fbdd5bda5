"""How often the report is right."""
