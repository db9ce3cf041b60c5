"""Results of one run and their presentation: JSON records, provenance, a workbook, tables, charts, submissions."""
