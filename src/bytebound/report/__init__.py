"""Render documents: terminal, HTML, SARIF, JUnit. Nothing here computes; every number comes from a document."""
