"""What one run found, where it ran and how that is shown: JSON records, a workbook, a table, submissions."""
