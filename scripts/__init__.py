"""Scripts that maintain the repository's own documents."""
