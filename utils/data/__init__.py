"""Dataset plug-ins: where the rows are, how a row becomes model input, how it is judged; and what prepares them."""
