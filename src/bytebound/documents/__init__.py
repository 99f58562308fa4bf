"""Every file format and result as a frozen typed record with a JSON Schema. No physics."""
